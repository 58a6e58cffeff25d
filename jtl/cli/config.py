"""`jtl schema`: the JSON Schema of a config, for editors that complete keys."""

import json
from pathlib import Path


def schema(output: Path | None = None) -> None:
    """Write the JSON Schema of a config, so that an editor completes and checks its keys.

    Example: `jtl schema jtl.schema.json`, then put
    `# yaml-language-server: $schema=jtl.schema.json` into the first line of a config.

    Args:
        output: the file; printed if it is left out.

    Raises:
        ConfigError: the file cannot be written.
    """
    from jtl.config import json_schema
    from jtl.errors import ConfigError
    from jtl.experiment.options import Config

    text = json.dumps(json_schema(Config), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{output} cannot be written: {error.strerror}.") from error
    print(output)
