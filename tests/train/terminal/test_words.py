from simsiam.train.terminal.words import counted


def test_words_follow_their_number() -> None:
    assert [counted(number, "image") for number in (0, 1, 1000)] == ["0 images", "1 image", "1,000 images"]
    assert [counted(number, "class", "classes") for number in (1, 2)] == ["1 class", "2 classes"]
