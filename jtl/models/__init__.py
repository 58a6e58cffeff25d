"""The networks that jtl fine-tunes, in Flax Linen: layers, families and the registry of names."""
