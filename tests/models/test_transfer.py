"""A generator that starts from another one: what is taken, what stays frozen, what is refused, what is recorded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from stopping import Stop, stop_at
from torch import nn

from dicom_io.errors import Rejected
from models import bundle, recipe, training, version
from models.evaluate import evaluate
from models.networks.generator import Discriminator, Generator
from models.training.transfer import layers
from models.version import read_weights

NETWORKS = {
    "generator": {"image_px": 16, "features": 16, "latent": 16},
    "conditional-vae": {"kind": "convolutional", "image_px": 16, "features": 8, "latent": 8, "blocks": 3},
    "diffusion": {"image_px": 16, "channels": [8, 8], "residual_blocks": 1},
}
# Steps too small to be seen: what comes out is what was taken.
STILL = {"learning_rate": 1e-30}


def small(name: str = "generator", **keys):
    plain = recipe.load(name).model_dump(mode="json")
    plain |= {"pixel_range": [0.0, 10.0], "network": NETWORKS[name], "audit_samples": 64, "alarms": "warn"}
    plain["conditional"] = False
    plain["evaluation"] = {"bootstrap_draws": 200}
    plain["schedule"] |= {"total_images": 32, "report_images": 16, "batch_size": 8, "warm_up_images": 0}
    plain["schedule"] |= {"precision": "float32", "decay": "none"}
    if name == "diffusion":
        plain |= {"report_samples": 16, "sampler": {"steps": 2}}
    for key, value in keys.items():
        plain[key] = plain[key] | value if isinstance(value, dict) and plain.get(key) else value
    return recipe.parse(plain, name)


@pytest.fixture(scope="module")
def films(make_cohort):
    """What is trained on first: another cohort than `scans`, with classes."""
    return make_cohort("classification", (3, 1, 3), name="films")


@pytest.fixture(scope="module")
def scans(make_cohort):
    return make_cohort("classification", (4, 2, 3), name="scans")


@pytest.fixture(scope="module")
def ancestors(films, tmp_path_factory):
    """A finished run of each family, by the recipe's name."""
    folder = tmp_path_factory.mktemp("ancestors")
    for name in NETWORKS:
        training.train(small(name), films, folder / name, device="cpu")
    return folder


def run(chosen, cohort, folder: Path, **options):
    """Trains; what it warned of."""
    said = []
    training.train(
        chosen,
        cohort,
        folder,
        device="cpu",
        progress=lambda event: said.append(event["message"]) if event["kind"] == "warning" else None,
        **options,
    )
    return said


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    """Of all networks that a run left."""
    files = [*(folder / "models").glob("*.pt"), *(folder / "training").glob("*.pt")]
    return {f"{path.stem}.{name}": value for path in files for name, value in read_weights(path).items()}


def parameters_differ(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_training_that_starts_from_a_run_begins_with_its_weights(name, ancestors, scans, tmp_path):
    run(small(name, optimiser=STILL), scans, tmp_path / "run", start_from=ancestors / name)
    taken, left = weights_of(ancestors / name), weights_of(tmp_path / "run")
    assert taken.keys() == left.keys()
    for weight in taken:
        torch.testing.assert_close(left[weight], taken[weight], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "left"),
    [("generator", {"critic.pt"}), ("conditional-vae", {"encoder.pt"}), ("diffusion", set())],
)
def test_a_run_leaves_the_networks_that_only_a_later_training_needs(name, left, ancestors):
    assert {path.name for path in (ancestors / name / "training").glob("*")} == left


@pytest.mark.parametrize(
    ("name", "freeze", "stays"),
    [
        ("generator", {"critic": 1, "generator": ["project"]}, ("critic.blocks.0.", "model.project.", "model.first_n")),
        ("conditional-vae", {"encoder": ["levels.0"]}, ("encoder.levels.0.",)),
        ("diffusion", {"denoiser": ["unet.first", "unet.down.0"]}, ("model.unet.first.", "model.unet.down.0.")),
    ],
)
def test_frozen_layers_end_bit_equal_and_all_others_do_not(name, freeze, stays, ancestors, scans, tmp_path):
    chosen = small(name, optimiser={"learning_rate": 1e-2}, transfer={"freeze": freeze})
    run(chosen, scans, tmp_path / "run", start_from=ancestors / name)
    taken = weights_of(ancestors / name)
    moved = parameters_differ(taken, weights_of(tmp_path / "run"))
    frozen = {weight for weight in taken if weight.startswith(stays)}
    assert frozen and moved.isdisjoint(frozen)
    # Zeros of a last layer that never learnt may stay, and a batch norm's counters are equal in equally long runs.
    assert {weight for weight in taken if weight.endswith("weight")} - frozen <= moved


def test_frozen_layers_train_when_their_share_is_over(ancestors, scans, tmp_path):
    settings = {"freeze": {"critic": 1}, "frozen_share": 0.5}
    chosen = small(optimiser={"learning_rate": 1e-2}, transfer=settings)
    run(chosen, scans, tmp_path / "run", start_from=ancestors / "generator")
    first = "critic.blocks.0.weight"
    begin, half = weights_of(ancestors / "generator")[first], _first_report_critic(chosen, scans, ancestors, tmp_path)
    assert torch.equal(begin, half)
    checkpoint = torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)
    assert not torch.equal(begin, checkpoint["discriminator"]["blocks.0.weight"])


def _first_report_critic(chosen, cohort, ancestors: Path, folder: Path) -> torch.Tensor:
    """The critic's first layer after half of the training: its checkpoint, when the second report is written."""
    found = {}

    def listen(event):
        if event["kind"] == "report" and event["images_seen"] == 32:
            found["it"] = torch.load(folder / "half" / "checkpoint.pt", weights_only=True)["discriminator"]

    training.train(chosen, cohort, folder / "half", device="cpu", progress=listen, start_from=ancestors / "generator")
    return found["it"]["blocks.0.weight"]


def test_a_part_begins_anew_where_the_recipe_says_so(ancestors, scans, tmp_path):
    chosen = small(optimiser=STILL, transfer={"fresh": ["critic"]})
    run(chosen, scans, tmp_path / "run", start_from=ancestors / "generator")
    moved = parameters_differ(weights_of(ancestors / "generator"), weights_of(tmp_path / "run"))
    assert "critic.blocks.0.weight" in moved and "model.project.weight" not in moved


def test_layers_are_counted_from_the_input_on_and_norms_belong_to_the_one_before():
    critic = layers(Discriminator(32, 16, norm="batch", classes=3))
    assert [*critic] == ["blocks.0", "blocks.2", "blocks.5", "mix", "verdict"]
    assert critic["blocks.2"] == ["blocks.2.weight", "blocks.2.bias", "blocks.3.weight", "blocks.3.bias"]
    made = Generator(32, 16, 8)
    assert [*layers(made)] == ["project", "blocks.0", "blocks.1", "blocks.2", "picture"]
    every = [name for names in layers(made).values() for name in names]
    assert sorted(every) == sorted(name for name, _ in made.named_parameters())


def test_a_network_around_another_one_is_looked_into():
    assert [*layers(nn.ModuleDict({"inner": Generator(16, 16, 8)}))][:2] == ["inner.project", "inner.blocks.0"]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"network": {"image_px": 32}}, r"its network has image_px 16, and that of recipe 'generator' 32; set network"),
        ({"network": {"latent": 24}}, r"has latent 16, and that of recipe 'generator' 24; set network\.latent to 16"),
        ({"network": {"law": "uniform"}}, r"has law normal, and that of recipe 'generator' uniform"),
        ({"network": {"critic_norm": "batch"}}, r"blocks\.3\.\w+ of its critic is .*transfer\.fresh: \[critic\]"),
        (
            {"transfer": {"freeze": {"critic": ["blocks.9"]}}},
            r"'blocks\.9' is none of its layers, which are blocks\.0,",
        ),
        ({"transfer": {"freeze": {"critic": 9}}}, r"9 of 4 layers leave none to train; freeze fewer"),
        ({"transfer": {"freeze": {"encoder": 1}}}, r"transfer\.freeze: 'encoder' is none of generator, critic"),
        ({"transfer": {"fresh": ["generator", "critic"]}}, r"is all that could be taken; leave one out"),
    ],
)
def test_what_does_not_fit_is_refused_with_both_values_and_the_way_out(keys, sentence, ancestors, scans, tmp_path):
    with pytest.raises(Rejected, match=sentence):
        run(small(**keys), scans, tmp_path / "run", start_from=ancestors / "generator")


def test_another_network_is_refused(ancestors, scans, tmp_path):
    other = {"network": {"kind": "pet-wgan-gp", "image_px": 32}}
    chosen = recipe.parse(small().model_dump(mode="json") | other, "wgan")
    with pytest.raises(Rejected, match=r"its network is Generator, and that of recipe 'generator' WGANGenerator; take"):
        run(chosen, scans, tmp_path / "run", start_from=ancestors / "generator")
    with pytest.raises(Rejected, match="network is ConvolutionalDecoder, and that of recipe 'generator' Generator"):
        run(small(), scans, tmp_path / "run", start_from=ancestors / "conditional-vae")


def test_a_predictor_is_neither_started_from_nor_started(segmentation_run, generation_run, scans, tmp_path):
    with pytest.raises(Rejected, match="is for segmentation; start from a generator"):
        run(small(), scans, tmp_path / "run", start_from=segmentation_run[0])
    _, cohort, chosen = segmentation_run
    with pytest.raises(Rejected, match="is for segmentation; only generators start from another model"):
        run(chosen, cohort, tmp_path / "run", start_from=generation_run[0])


def test_freezing_without_a_model_to_start_from_is_refused(scans, tmp_path):
    with pytest.raises(Rejected, match=r"fresh weights are not worth freezing; name that model \(--start-from\)"):
        run(small(transfer={"freeze": {"critic": 1}}), scans, tmp_path / "run")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"fresh": ["critic"], "freeze": {"critic": 1}}, "critic cannot begin anew and stay as it was"),
        ({"frozen_share": 0.5}, "nothing is frozen"),
        ({"freeze": {"critic": 0}}, r"key 'transfer\.freeze\.critic': give a number of layers above 0, or a list"),
        ({"freeze": {"critic": "mix"}}, r"key 'transfer\.freeze\.critic': give a number of layers above 0, or a list"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(settings, sentence):
    with pytest.raises(Rejected, match=sentence):
        small(transfer=settings)


def test_weights_of_other_classes_begin_anew_and_the_rest_is_taken(ancestors, scans, tmp_path):
    chosen = small(optimiser=STILL, conditional=True)
    said = run(chosen, scans, tmp_path / "run", start_from=ancestors / "generator")
    assert any("knows no classes, this training background, lesion: what belongs" in each for each in said)
    left, taken = weights_of(tmp_path / "run"), weights_of(ancestors / "generator")
    torch.testing.assert_close(left["model.project.weight"], taken["model.project.weight"], rtol=0, atol=1e-6)
    torch.testing.assert_close(left["critic.mix.weight"], taken["critic.mix.weight"], rtol=0, atol=1e-6)
    assert "model.first_norm.gain.weight" in left and "model.first_norm.gain.weight" not in taken


def test_stages_and_frozen_layers_of_another_model_exclude_each_other():
    plain = recipe.load("brain-cvae-transfer").model_dump(mode="json") | {"transfer": {"freeze": {"encoder": 1}}}
    with pytest.raises(Rejected, match="stages freezes convolutions by itself; leave it out"):
        recipe.parse(plain, "both")


def test_as_many_classes_of_other_names_are_other_classes(make_cohort, ancestors, scans, tmp_path):
    others = make_cohort("classification", (3, 1, 1), labels=("left", "right"))
    run(small(conditional=True), scans, tmp_path / "first", start_from=ancestors / "generator")
    for name, cohort, same in (("same", scans, True), ("other", others, False)):
        said = run(small(optimiser=STILL, conditional=True), cohort, tmp_path / name, start_from=tmp_path / "first")
        moved = parameters_differ(weights_of(tmp_path / "first"), weights_of(tmp_path / name))
        assert ("critic.class_vectors.weight" not in moved) is same
        assert any("what belongs to classes begins anew" in each for each in said) is not same


@pytest.mark.parametrize("name", NETWORKS)
def test_a_transfer_that_was_stopped_goes_on_without_the_model_and_ends_bit_equal(name, ancestors, scans, tmp_path):
    part = {"generator": "critic", "conditional-vae": "encoder", "diffusion": "denoiser"}[name]
    chosen = small(name, schedule={"total_images": 64}, transfer={"freeze": {part: 1}, "frozen_share": 0.75})
    gone = tmp_path / "gone"
    shutil.copytree(ancestors / name, gone)
    training.train(chosen, scans, tmp_path / "whole", device="cpu", start_from=gone)
    with pytest.raises(Stop):
        training.train(chosen, scans, tmp_path / "parts", device="cpu", progress=stop_at(32), start_from=gone)
    shutil.rmtree(gone)
    training.train(chosen, scans, tmp_path / "parts", device="cpu", resume=True)
    assert not parameters_differ(weights_of(tmp_path / "whole"), weights_of(tmp_path / "parts"))
    one, other = ((tmp_path / each / "configs" / "metadata.json").read_bytes() for each in ("whole", "parts"))
    assert one == other


def test_a_run_is_resumed_from_no_other_model(ancestors, scans, films, generation_run, tmp_path):
    training.train(small(), scans, tmp_path / "run", device="cpu", start_from=ancestors / "generator")
    with pytest.raises(Rejected, match=r"started from generator:0 .*, not from generator:0 .*without --start-from"):
        run(small(), scans, tmp_path / "run", resume=True, start_from=generation_run[0])
    training.train(small(), scans, tmp_path / "run", device="cpu", resume=True, start_from=ancestors / "generator")
    with pytest.raises(Rejected, match="started from no model, not from generator:0"):
        run(small(), films, ancestors / "generator", resume=True, start_from=generation_run[0])


def test_a_transfer_that_was_stopped_before_its_first_checkpoint_does_not_begin_without_the_model(
    ancestors, scans, tmp_path
):
    def at_once(event):
        raise Stop

    with pytest.raises(Stop):
        training.train(
            small(), scans, tmp_path / "run", device="cpu", progress=at_once, start_from=ancestors / "generator"
        )
    with pytest.raises(Rejected, match=r"was to start from generator:0 .* give it again \(--start-from\)"):
        run(small(), scans, tmp_path / "run", resume=True)
    run(small(), scans, tmp_path / "run", resume=True, start_from=ancestors / "generator")
    assert version.load(tmp_path / "run").description.saw.ancestors


@pytest.fixture(scope="module")
def released(ancestors, films, scans, tmp_path_factory):
    """films:1, and scans:1 that started from it, on one shelf."""
    folder = tmp_path_factory.mktemp("released")
    first = bundle.release(ancestors / "generator", films, "films", models_dir=folder / "models")
    said = run(small(transfer={"freeze": {"critic": 1}}), scans, folder / "run", start_from=first.folder)
    return first, bundle.release(folder / "run", scans, "scans", models_dir=folder / "models"), said


def test_a_version_says_what_it_started_from_and_what_that_saw(released, films, scans):
    first, second, said = released
    (ancestor,) = second.description.saw.ancestors
    assert (ancestor.address, ancestor.content_hash) == ("films:1", first.identity.content_hash)
    assert (ancestor.cohort, ancestor.data_hash, ancestor.patients) == ("films", films.data_hash, 3)
    card = (second.folder / "docs" / "README.md").read_text()
    assert f"It started from the weights of films:1 (content hash `{first.identity.content_hash}`)" in card
    assert "The copy test looks for patients of cohort scans, not for those of films" in card
    assert any("films:1 saw 3 patients of cohort 'films'" in each for each in said)


def test_the_line_of_descent_is_kept(released, scans, tmp_path):
    run(small(), scans, tmp_path / "run", start_from=released[1].folder)
    known = version.load(tmp_path / "run").description.saw.ancestors
    assert [each.address for each in known] == ["scans:1", "films:1"]


def test_figures_on_test_patients_come_with_a_caution_where_an_ancestor_saw_another_cohort(released, scans, films):
    report = evaluate(released[1].folder, scans, draws=100)
    assert report["trained_on_this_cohort"] is True
    assert "films:1, which it started from, was trained on cohort 'films'" in report["caution"]
    assert evaluate(released[0].folder, films, draws=100)["caution"] == ""


def test_a_training_on_the_cohort_of_its_ancestor_saw_no_other_patients(ancestors, films, tmp_path):
    said = run(small(), films, tmp_path / "run", start_from=ancestors / "generator")
    assert not any("count only where" in each for each in said)
    assert evaluate(tmp_path / "run", films, draws=100)["caution"] == ""


def test_the_critic_may_be_left_out_of_a_version_that_is_given_away(released, scans, tmp_path):
    given = tmp_path / "given"
    shutil.copytree(released[0].folder, given)
    shutil.rmtree(given / "training")
    assert version.load(given).identity == released[0].identity
    said = run(small(), scans, tmp_path / "run", start_from=given)
    assert "films:1 left no critic, which begins anew" in said
    with pytest.raises(Rejected, match=r"transfer\.freeze: films:1 left no critic that could be frozen"):
        run(small(transfer={"freeze": {"critic": 1}}), scans, tmp_path / "frozen", start_from=given)


def test_a_critic_that_is_not_the_one_that_was_left_is_refused(released, scans, tmp_path):
    changed = tmp_path / "changed"
    shutil.copytree(released[0].folder, changed)
    other = {name: value + 1 for name, value in read_weights(changed / "training" / "critic.pt").items()}
    torch.save(other, changed / "training" / "critic.pt")
    with pytest.raises(Rejected, match=r"critic\.pt is not what training left"):
        run(small(), scans, tmp_path / "run", start_from=changed)


def test_a_version_from_before_there_was_transfer_is_started_from(released, scans, tmp_path):
    old = tmp_path / "old"
    shutil.copytree(released[0].folder, old)
    shutil.rmtree(old / "training")
    path = old / "configs" / "metadata.json"
    document = json.loads(path.read_text())
    del document["mirall"]["beside"], document["mirall"]["saw"]["ancestors"]
    path.write_text(json.dumps(document))
    said = run(small(optimiser=STILL), scans, tmp_path / "run", start_from=old)
    assert "films:1 left no critic, which begins anew" in said
    taken, left = weights_of(old), weights_of(tmp_path / "run")
    torch.testing.assert_close(left["model.project.weight"], taken["model.project.weight"], rtol=0, atol=1e-6)
