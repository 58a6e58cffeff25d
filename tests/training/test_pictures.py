import numpy as np

from jtl.training.pictures import confusion_picture, example_sheet


def is_dark(image):
    return image.astype(int).sum(axis=-1) < 300


def test_a_confusion_matrix_is_dark_where_a_row_mostly_is():
    counts = np.array([[90, 10], [0, 0]])
    image = confusion_picture(counts, ("", ""))
    size = 240
    cells = image[10:, 10:].reshape(2, size, 2, size, 3)
    shares = is_dark(cells.transpose(0, 2, 1, 3, 4).reshape(4, -1, 3)).mean(axis=1)
    assert shares[0] > 0.9
    assert (shares[1:] < 0.05).all()


def test_names_take_room_beside_the_matrix_and_a_thousand_classes_have_none():
    named = confusion_picture(np.eye(3, dtype=int), ("ant", "a bee of some length", "cat"))
    assert named.shape[0] == named.shape[1] > 480 + 60
    many = confusion_picture(np.eye(1000, dtype=int), [f"class {k}" for k in range(1000)])
    assert many.shape == (1010, 1010, 3)


def test_a_sheet_shows_every_image():
    images = np.zeros((5, 8, 8, 3), np.uint8)
    images[:, :, :, 0] = np.arange(5)[:, None, None] * 40 + 50
    sheet = example_sheet(
        images, ["one", "two", "three\nlines", "four", "a title that is very long"]
    )
    for value in images[:, 0, 0, 0]:
        assert (sheet == (value, 0, 0)).all(axis=-1).sum() == 128 * 128
