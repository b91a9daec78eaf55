"""Which epoch is chosen, from made-up answers: the earliest within the noise of the best that loses nothing general."""

from __future__ import annotations

import json

from finetune.verify.epochs.choice import Point, choose, record, says_too_little, sentence, within_noise
from finetune.verify.words import catalogue, speaker


def point(epoch: int, right: int, of: int = 40, general: int = 20) -> Point:
    """The first `right` of the questions answered, and the first `general` of 20 general tasks done."""
    return Point(epoch, 2 * epoch, tuple(n < right for n in range(of)), tuple(n < general for n in range(20)))


ALL = tuple([True] * 20)


def chosen(*points: Point) -> int:
    return choose(points, ALL).point.epoch


def test_the_earliest_within_the_noise_of_the_best_is_chosen() -> None:
    assert chosen(point(1, 5), point(2, 20), point(3, 34), point(5, 39), point(10, 40), point(20, 40)) == 5


def test_two_questions_less_and_none_more_is_no_noise() -> None:
    right = [True] * 40
    assert within_noise(right, [False, *right[1:]])
    assert not within_noise(right, [False, False, *right[2:]])
    swapped = [False, False, *right[2:]]
    assert within_noise([*right[:39], False], [*swapped[:39], True]), "two lost and one gained is a draw"


def test_a_better_epoch_that_loses_general_tasks_is_passed_over() -> None:
    assert chosen(point(1, 10), point(4, 37), point(10, 40, general=14), point(20, 40, general=10)) == 4


def test_general_tasks_are_not_kept_at_any_price() -> None:
    found = choose([point(1, 2), point(4, 20, general=16), point(10, 40, general=12), point(20, 40, general=10)], ALL)
    assert (found.point.epoch, found.keeps) == (10, False)


def test_of_equal_epochs_that_all_lose_the_one_that_loses_least_is_chosen() -> None:
    assert chosen(point(5, 40, general=10), point(10, 40, general=14), point(20, 40, general=12)) == 10


def test_a_gain_makes_up_for_a_loss_of_general_tasks() -> None:
    before = tuple([True] * 10 + [False] * 10)
    after = tuple([False] + [True] * 10 + [False] * 9)
    found = choose([Point(1, 2, (True,) * 8, after)], before)
    assert found.keeps


def test_without_general_tasks_the_answers_decide() -> None:
    points = [Point(n, n, tuple(i < n for i in range(10))) for n in (1, 5, 10)]
    found = choose(points, ())
    assert found.point.epoch == 10
    assert "nothing general was asked" in record(found, points, (), "reworded")["why"]


def test_the_record_says_why_in_both_languages_and_is_json() -> None:
    points = [point(1, 5), point(5, 39), point(10, 40)]
    found = record(choose(points, ALL), points, ALL, "reworded")
    assert json.loads(json.dumps(found)) == found
    assert found["why"] == (
        "epoch 5 of 10 was chosen: 39 of 40 questions in other words are answered right, within the noise of the best "
        "(40, epoch 10), and nothing general is lost there"
    )
    assert [each["right"] for each in found["curve"]] == [5, 39, 40]
    chinese = speaker("zh")(sentence(found))
    assert "第 5 轮" in chinese
    assert "epoch" not in chinese


def test_every_sentence_of_a_choice_has_its_chinese() -> None:
    lossy = [point(5, 30, general=10), point(10, 40, general=10)]
    for by in ("reworded", "unseen"):
        said = sentence(record(choose(lossy, ALL), lossy, ALL, by))
        assert {said.pattern, said.values["what"].pattern, said.values["general"].pattern} <= catalogue().keys()


def silent(epoch: int, *nll: float) -> Point:
    return Point(epoch, epoch, (False,) * len(nll), (True,) * 20, nll)


def test_where_nothing_is_answered_right_the_likelihood_decides() -> None:
    """Else the first epoch would be as good as any, and an adapter that has learned nothing would be kept."""
    points = [silent(1, 5.0, 4.0, 6.0), silent(5, 2.0, 2.1, 2.2), silent(10, 1.0, 1.2, 1.1), silent(20, 1.0, 1.1, 1.2)]
    assert says_too_little(points)
    found = choose(points, ALL)
    assert found.point.epoch == 10
    said = record(found, points, ALL, "reworded")
    assert said["measure"] == "nll"
    assert "at most 0 are answered right at any, so that the likelihood" in said["why"]
    assert "第 10 轮" in speaker("zh")(sentence(said))
    assert not says_too_little([point(1, 0), point(5, 4)])


def test_likelihoods_keep_what_is_general_too() -> None:
    good = silent(10, 1.0, 1.2, 1.1)
    lossy = Point(20, 20, good.right, (False,) * 20, (0.95, 1.15, 1.05))
    assert choose([silent(1, 5.0, 4.0, 6.0), good, lossy], ALL).point.epoch == 10
