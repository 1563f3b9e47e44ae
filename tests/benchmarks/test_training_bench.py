"""The benchmark of training, small: that it runs, that what it counts is what it says, and that it can fail."""

from __future__ import annotations

import time

import generating
import pytest
import torch
import training
import training_predictors

from models import networks
from models.networks import pairs
from models.networks.doubling import DoublingConv2d


def test_a_quick_run_measures_every_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["training.py", "--quick"])
    with pytest.raises(SystemExit) as ended:
        training.main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"{line.name}: " in said for line in training.LINES)
    assert said.count("to DICOM: ") == said.count("sampling, pictures/s: ours ") == len(training.LINES)


def test_flop_are_those_of_a_step_written_down() -> None:
    """One critic step on reals and fakes, R1 in one of sixteen, and one generator step; dense layers are small."""
    settings = training.LINES[0].settings(False, {})
    critic = pairs.critic(settings.network, 0)
    made = networks.build(pairs.generator(settings.network, 0))
    of_critic, of_generator = _convolutions(critic, torch.zeros(1, 1, 64, 64)), _convolutions(made, torch.zeros(1, 128))
    # Forwards 1, backwards 2; the gradient's gradient is as long as three passes more, forwards and backwards.
    critic_step = 2 * 3 * of_critic + of_generator + 6 / 16 * of_critic
    expected = critic_step + 2 * of_critic + 2 * of_generator
    with training.as_defined():
        assert training.flop_per_image(settings) == pytest.approx(expected, rel=0.02)
    # The generator's doubling layers do 4 multiplications where 9 are defined, once to twice, and twice backwards.
    doubled = _convolutions(made, torch.zeros(1, 128), DoublingConv2d)
    assert training.flop_per_image(settings) == pytest.approx(expected - 3 * 5 / 9 * doubled, rel=0.03)


def _convolutions(network: torch.nn.Module, given: torch.Tensor, kind: type = torch.nn.Conv2d) -> float:
    flop = 0.0

    def count(layer: torch.nn.Conv2d, inputs: object, output: torch.Tensor) -> None:
        nonlocal flop
        flop += 2 * output[0].numel() * layer.weight[0].numel()

    for layer in network.modules():
        if isinstance(layer, kind):
            layer.register_forward_hook(count)
    with torch.inference_mode():
        network(given)
    return flop


def test_shares_of_the_time_are_exclusive() -> None:
    """A part that calls another counts for what it does itself."""

    class Work:
        def outer(self) -> None:
            self.inner()
            _spend(0.02)

        def inner(self) -> None:
            _spend(0.06)

    clock = generating.Clock()
    with clock.watch(Work, "outer", "outer"), clock.watch(Work, "inner", "inner"):
        Work().outer()
    assert clock.seconds == pytest.approx({"outer": 0.02, "inner": 0.06}, rel=0.2)


def _spend(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_a_missed_bar_is_a_sentence() -> None:
    good = {"ratio": 0.98, "of_peak": 0.5, "input": 0.95, "has_peak_bar": False}
    bad = good | {"ratio": 0.9, "has_peak_bar": True}
    assert training.shortfalls({"A": good, "B": bad}) == [
        "B: ratio 0.900 is below 0.97",
        "B: of_peak 0.500 is below 0.75",
    ]


def test_a_quick_run_measures_predictors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["training_predictors.py", "--quick"])
    with pytest.raises(SystemExit) as ended:
        training_predictors.main()
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(f"{line.name}: " in said for line in training_predictors.LINES)
