from __future__ import annotations

from headgate.control import Point
from headgate_console.plot import HEIGHT, evidence


def point(looks: int, worse: float, fine: float, result: str = "inconclusive") -> Point:
    figures = {"evidence_worse_stable": worse, "needed_worse_stable": 8.0}
    figures |= {"evidence_fine_stable": fine, "needed_fine_stable": 3.0}
    return Point(looks, 0.0, result, figures)


def test_evidence_is_drawn_as_a_share_of_what_decides() -> None:
    lines = evidence([point(1, 0.0, 0.0), point(2, 4.0, 1.5), point(3, 8.0, -1.0, "fail")])
    grid = lines[1 : HEIGHT + 2]
    assert grid[0] == " 100 |  x|"
    assert grid[HEIGHT // 2] == "  50 | * |"
    assert grid[HEIGHT] == "   0 |* o|"
    assert lines[-1].startswith("said |..F|")


def test_one_test_is_enough_to_fail_and_all_are_needed_to_pass() -> None:
    two = {"evidence_worse_ceiling": 8.0, "needed_worse_ceiling": 8.0}
    two |= {"evidence_fine_ceiling": 3.0, "needed_fine_ceiling": 3.0}
    first = point(1, 0.0, 0.0)
    lines = evidence([Point(1, 0.0, "fail", {**first.figures, **two})])
    assert (lines[1], lines[HEIGHT + 1]) == (" 100 |x|", "   0 |o|")


def test_a_gate_without_evidence_figures_shows_what_it_said() -> None:
    assert evidence([Point(1, 0.0, "error", {}), Point(5, 0.0, "pass", {"requests": 5.0})]) == [
        "said |EP|  P pass, F fail, . inconclusive, E error; looks 1 to 5"
    ]
    assert evidence([]) == []
