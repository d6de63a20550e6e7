"""Peers that learn together: formulas, shared stages, and nothing of them in the model that is deployed."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from downstream.compress import losses
from downstream.compress.objectives import look
from downstream.compress.online import Peers, make_peer, stages
from specfm.errors import UsageError
from tests.downstream.compress.make import model, windows


def test_okddip_as_written() -> None:
    leader, (view, y_B) = model("small:mlp"), windows()
    objective = Peers(leader, "okddip", peers=4, temperature=3.0, alpha=1.5, ramp_steps=10)
    loss, scores_BK = objective(leader, view, y_B, 4)
    seen = [look(each, view) for each in objective.others]
    z = [each.scores_BK for each in seen]
    assert objective.query is not None and objective.key is not None
    q, k = ([layer(each.pooled_BD) for each in seen] for layer in (objective.query, objective.key))
    wanted = F.cross_entropy(scores_BK, y_B) + sum(F.cross_entropy(each, y_B) for each in z)
    weight = 1.5 * losses.ramp_up(4, 10)
    for a in range(3):
        share = torch.stack([(q[a] * k[b]).sum(1) for b in range(3)], 1).softmax(1)
        target = sum(share[:, b : b + 1] * z[b] for b in range(3))
        wanted = wanted + weight * losses.softened_kl(z[a], target, 3.0)
    wanted = wanted + weight * losses.softened_kl(scores_BK, torch.stack(z).mean(0), 3.0)
    assert torch.allclose(loss, wanted, atol=1e-5)
    loss.backward()
    assert objective.query.weight.grad is not None and objective.query.weight.grad.abs().max() > 0


def test_the_leader_of_okddip_does_not_move_its_peers() -> None:
    leader, (view, y_B) = model("small:mlp"), windows()
    objective = Peers(leader, "okddip", peers=3)
    loss, scores_BK = objective(leader, view, y_B, 1)
    others = torch.stack([look(each, view).scores_BK for each in objective.others]).detach()
    mine = F.cross_entropy(scores_BK, y_B) + losses.softened_kl(scores_BK, others.mean(0), 3.0)
    weights = list(leader.parameters())
    found, wanted = (torch.autograd.grad(each, weights, retain_graph=True) for each in (loss, mine))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("how", ["mutual", "one"])
def test_the_others_as_written(how: str) -> None:
    leader, (view, y_B) = model("small:mlp"), windows()
    objective = Peers(leader, how, peers=3, temperature=2.0)  # type: ignore[arg-type]
    loss, scores_BK = objective(leader, view, y_B, 1)
    z = torch.stack([scores_BK, *(look(each, view).scores_BK for each in objective.others)])
    wanted = sum(F.cross_entropy(each, y_B) for each in z)
    if how == "mutual":
        wanted = wanted + losses.mutual(z, 2.0)
    else:
        assert objective.gate is not None
        share_BA = objective.gate(look(leader, view).pooled_BD).softmax(1)
        teacher = sum(share_BA[:, a : a + 1] * z[a] for a in range(3))
        wanted = wanted + F.cross_entropy(teacher, y_B) + sum(losses.softened_kl(each, teacher, 2.0) for each in z)
    assert torch.allclose(loss, torch.as_tensor(wanted), atol=1e-5)


@pytest.mark.parametrize("kind", ["encoder", "small:cnn2d", "timm:resnet10t"])
def test_shared_stages_are_one(kind: str) -> None:
    made = model(kind)
    peer = make_peer(made, 2, seed=5)
    pairs = list(zip(stages(made.encoder), stages(peer.encoder), strict=True))
    same = [getattr(*a) is getattr(*b) for a, b in pairs]
    assert same[:2] == [True, True] and not any(same[2:]) and len(same) > 2
    view, _ = windows()
    assert not torch.allclose(peer(view), made(view))
    apart = make_peer(made, 0, seed=5)
    mine, theirs = ({id(p) for p in each.parameters()} for each in (made, apart))
    assert not mine & theirs
    with pytest.raises(UsageError, match=f"0 to {len(same) - 1} stages"):
        make_peer(made, len(same), seed=5)


def test_first_weights_are_of_the_seed_alone() -> None:
    made = model("small:mlp")
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = Peers(made, "one", peers=3, seed=7).state_dict()
    assert torch.equal(state, torch.get_rng_state())
    second = Peers(made, "one", peers=3, seed=7).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_fewer_peers_than_there_must_be() -> None:
    with pytest.raises(UsageError, match="okddip needs at least 3 peers"):
        Peers(model("small:mlp"), "okddip", peers=2)
