"""List files: a path and a label per line."""

from pathlib import Path

import pytest

pytest.importorskip("PIL", reason="needs Pillow")

from dna_fast.data import ImageIndex
from dna_fast.data.listing import list_file


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lines_keep_their_order_and_numbers_their_value(tmp_path: Path) -> None:
    listing = list_file(written(tmp_path / "l.txt", "# images\nb.jpg 10\n\n a dir/a b.jpg\t2\nc.jpg 2\n"))
    assert listing.files == ("b.jpg", "a dir/a b.jpg", "c.jpg")
    assert listing.classes == ("2", "10")
    assert listing.labels == (1, 0, 0)
    assert listing.root == str(tmp_path)


def test_labels_may_be_names(tmp_path: Path) -> None:
    listing = list_file(written(tmp_path / "l.txt", "x.jpg n02\ny.jpg n01\nz.jpg 3\n"), "/some/where")
    assert listing.classes == ("3", "n01", "n02")
    assert listing.labels == (2, 1, 0)
    assert listing.paths()[0] == "/some/where/x.jpg"


def test_a_list_of_a_folder_gives_its_images(photos: Path, tmp_path: Path) -> None:
    folder = ImageIndex.scan(photos)
    lines = [f"{name} {folder.classes[label]}" for name, label in zip(folder.files, folder.labels, strict=True)]
    listed = ImageIndex.from_list(written(tmp_path / "l.txt", "\n".join(lines)), root=photos)
    assert listed.fingerprint() == folder.fingerprint()
    absolute = [f"{photos}/{line}" for line in lines]
    again = ImageIndex.from_list(written(tmp_path / "absolute.txt", "\n".join(absolute)))
    assert [again.path(k) for k in range(21)] == [folder.path(k) for k in range(21)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\nb.jpg\n", r"l\.txt, line 2: expected a path and a label, got 'b\.jpg'"),
        ("a.jpg 1\nb.jpg 0\na.jpg 1\n", r"l\.txt, line 3: a\.jpg is named a second time"),
        ("# nothing\n", r"l\.txt names no image"),
    ],
    ids=["no-label", "twice", "nothing"],
)
def test_bad_lines_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list_file(written(tmp_path / "l.txt", text))


def test_a_list_that_is_missing_or_no_text(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a text file with an image's path and its label per line"):
        list_file(tmp_path / "l.txt")
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        list_file(tmp_path / "l.txt")
