import numpy as np
import pytest
import torch
from torch import nn

from vpanalysis.capture.recorder import Recorder, tensor_of
from vpanalysis.capture.reducers import Spans, make_plan
from vpanalysis.errors import RunError


class Layer(nn.Module):
    """Returns a tensor, a tuple or a mapping, as Hugging Face's layers do by turns."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.linear, self.kind = nn.Linear(5, 5), kind

    def forward(self, x):
        y = torch.tanh(self.linear(x))
        return {"tensor": y, "tuple": (y, None), "mapping": {"last_hidden_state": y}}[self.kind]


class Tower(nn.Module):
    def __init__(self, fail: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Layer(kind) for kind in ("tensor", "tuple", "mapping"))
        self.fail = fail

    def forward(self, x):
        for layer in self.layers:
            x = tensor_of(layer(x))
        if self.fail:
            raise RuntimeError("out of memory")
        return x

    def module_of(self, site):
        return self.layers[int(site[8:-1])]


SITES = ["encoder[0]", "encoder[1]", "encoder[2]"]
X = torch.linspace(-1, 1, 2 * 7 * 5).reshape(2, 7, 5)
SPANS = {"encoder": Spans.per_item([7, 4])}


weights = Spans.segment_weights


def hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_outputs_are_bit_equal_with_hooks_on_and_off():
    model = Tower()
    off = model(X)
    with Recorder(model.module_of, make_plan(SITES, reducers=["mean", "segments(3)", "last", "frames"])) as recorder:
        recorder.expect(SPANS)
        on = model(X)
        states = recorder.take()
    assert torch.equal(on, off) and torch.equal(model(X), off)
    np.testing.assert_array_equal(states["encoder[2]", "last"], off[[0, 1], [6, 3]].detach().numpy())
    np.testing.assert_array_equal(states["encoder[2]", "frames"][1], off[1, :4].detach().numpy())
    np.testing.assert_allclose(states["encoder[2]", "mean"][1], off[1, :4].detach().numpy().mean(0), atol=1e-6)
    assert states["encoder[1]", "segments3"].shape == (2, 3, 5)


def test_hooks_are_gone_after_the_block_and_after_exceptions():
    model = Tower(fail=True)
    with pytest.raises(RuntimeError, match="out of memory"), Recorder(model.module_of, make_plan(SITES)) as recorder:
        assert hooks(model) == 3
        recorder.expect(SPANS)
        model(X)
    assert hooks(model) == 0
    with pytest.raises(KeyError), Recorder(lambda site: {SITES[0]: model.layers[0]}[site], make_plan(SITES)):
        pass
    assert hooks(model) == 0


def test_a_reducer_that_raises_inside_the_hook_leaves_no_hook():
    model = Tower()
    with pytest.raises(RunError, match="announced"), Recorder(model.module_of, make_plan(SITES)) as recorder:
        recorder.expect({"encoder": Spans.per_item([7])})
        model(X)
    assert hooks(model) == 0


def test_what_frames_are_valid_is_worked_out_once_for_all_layers(monkeypatch):
    made = []
    valid = Spans.valid
    monkeypatch.setattr(Spans, "segment_weights", lambda self, *a: made.append(a) or weights(self, *a))
    monkeypatch.setattr(Spans, "valid", lambda self, *a: made.append(a) or valid(self, *a))
    model = Tower()
    with Recorder(model.module_of, make_plan(SITES, reducers=["mean", "segments(3)"])) as recorder:
        for _ in range(2):
            made.clear()
            recorder.expect(SPANS)
            model(X)
            assert (3, 7) in made and len(made) <= 2
            recorder.take()


def test_consecutive_rows_in_several_calls_are_one_batch():
    model = Tower()
    plan = make_plan(SITES, reducers=["mean", "frames"])
    with Recorder(model.module_of, plan) as recorder:
        recorder.expect(SPANS)
        model(X)
        whole = recorder.take()
        recorder.expect(SPANS)
        model(X[:1])
        model(X[1:])
        parts = recorder.take()
        np.testing.assert_allclose(parts["encoder[1]", "mean"], whole["encoder[1]", "mean"], atol=1e-6)
        assert [len(f) for f in parts["encoder[1]", "frames"]] == [7, 4]


def test_a_site_that_did_not_run_is_an_error_not_a_stale_value():
    model = Tower()
    with Recorder(model.module_of, make_plan(SITES)) as recorder:
        recorder.expect(SPANS)
        with pytest.raises(RunError, match=r"cannot record 'encoder\[0\]'"):
            recorder.take()
        recorder.expect(SPANS)
        model(X[:1])
        with pytest.raises(RunError, match="found 1 rows"):
            recorder.take()


def test_forwards_that_were_not_announced_are_not_recorded():
    model = Tower()
    with Recorder(model.module_of, make_plan(SITES)) as recorder:
        model(X)
        recorder.expect(SPANS)
        model(X)
        recorder.take()
        model(X)
        recorder.expect(SPANS)
        model(X)
        assert recorder.take()["encoder[0]", "mean"].shape == (2, 5)


def test_what_holds_no_tensor_is_refused():
    with pytest.raises(RunError, match="found NoneType"):
        tensor_of(None)
