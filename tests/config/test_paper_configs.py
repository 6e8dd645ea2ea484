"""The papers' rows: each has its files, which the real command line builds on data in its real layout."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch

from robustseg.attacks import DAG, DS, PGD, Houdini, Targeted
from robustseg.config.build import RobustSegCLI
from robustseg.models import ModelError, SlidingWindow
from robustseg.shipped import complete
from tests.data.trees import ade20k_tree, bdd100k_tree, cityscapes_tree, sbd_tree, voc_tree
from tests.helpers.paths import ROOT

CONFIGS = ROOT / "configs"
EXPERIMENTS = CONFIGS / "experiment"
PAPERS = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
TABLE = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAPERS.splitlines()
    if line.startswith("| ") and line.endswith(" not run here |")
]

SEGPGD = {"standard", "pgd3", "segpgd3", "pgd7", "segpgd7"}
TRANSFER = {"fcn8s_vgg16", "fcn16s_vgg16", "pspnet_r50", "pspnet_r101", "deeplabv3_r50", "deeplabv3_r101"}
XIANG = {"fcn8s_vgg16", "fcn16s_vgg16", "fcn_r50", "fcn_r101"}
XIAO = {"drn_d_22", "dla34"}
ROWS = {
    # Gu et al. (SegPGD), Tables 1 and 2
    *(f"{data}/{network}_r50_{attack}" for data in ("voc", "cityscapes") for network in ("pspnet", "deeplabv3")
      for attack in SEGPGD),
    # Gu et al. (dynamic scale), Tables 1 to 4
    *(f"{data}/{network}_standard" for data in ("voc", "cityscapes") for network in TRANSFER),
    # Xiang et al., Tables 1 and 2
    *(f"voc/{network}_standard" for network in XIANG),
    # Xiao et al., Table 1 and BDD100K
    *(f"{data}/{network}_standard" for data in ("cityscapes", "bdd100k") for network in XIAO),
    # PIR-AT
    *(f"voc/{network}_robust_pgd5" for network in ("upernet_convnext_t", "upernet_convnext_s", "pspnet_r50")),
    *(f"ade20k/{network}_robust_pgd5" for network in ("upernet_convnext_t", "upernet_convnext_s", "segmenter_vit_s")),
}  # fmt: skip
CLASSES = {"voc": 21, "cityscapes": 19, "bdd100k": 19, "ade20k": 151}
BATCH = {"voc": 16, "cityscapes": 16, "bdd100k": 16}
RUNS = sorted(path for folder in EXPERIMENTS.iterdir() if folder.name != "camvid" for path in folder.glob("*.yaml"))


Trees = dict[str, list[str]]


def key(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def network_arguments(path: Path) -> dict[str, Any]:
    arguments: dict[str, Any] = complete(path)["model"]["network"]["init_args"]
    return arguments


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """The arguments that lead each kind of run to a tiny data set in the layout of the real one."""
    root = tmp_path_factory.mktemp("data")
    voc_tree(root / "voc")
    sbd_tree(root / "sbd")
    cityscapes_tree(root / "cityscapes")
    bdd100k_tree(root / "bdd100k")
    ade20k_tree(root / "ade20k")
    arguments = {name: ["--data.init_args.root", str(root / name)] for name in CLASSES}
    arguments["voc"] += ["--data.init_args.sbd_root", str(root / "sbd")]
    return arguments


def build(path: Path, trees: Trees, tmp_path: Path) -> RobustSegCLI:
    """The run of a file, without its weights: shapes are all that is looked at, so none are allocated."""
    network = network_arguments(path)
    drop = ["--model.network.init_args.weights=null"] if "weights" in network else []
    drop += ["--model.network.init_args.pretrained=false"] if "pretrained" in network else []
    here = [f"--trainer.default_root_dir={tmp_path}", "--trainer.accelerator=cpu", "--data.init_args.num_workers=0"]
    with torch.device("meta"):
        return RobustSegCLI(["--config", str(path), *drop, *trees[path.parent.name], *here])


def test_each_row_has_its_run():
    assert {key(path) for path in RUNS} == ROWS


@pytest.mark.parametrize("path", RUNS, ids=key)
def test_run(path: Path, trees: Trees, tmp_path: Path):
    cli = build(path, trees, tmp_path)
    folder, (network, attack) = path.parent.name, path.stem.rsplit("_", 1)
    robust = network.endswith("_robust")
    assert network_arguments(path).get("pretrained", False) != ("weights" in network_arguments(path))
    assert not robust or "weights" in network_arguments(path)
    assert cli.config.experiment == key(path)
    cli.datamodule.share_batch(1)
    size = cli.datamodule.batch_size
    if folder in BATCH and not robust:
        assert size == BATCH[folder]
    if attack == "standard":
        assert cli.model.attack is None
    else:
        assert type(cli.model.attack).__name__.lower() == attack[:-1]
        assert cli.model.attack.steps == int(attack[-1])
        assert cli.model.attack.step_rule.step_size == Fraction("0.01")
        assert str(cli.model.attack.threat.eps) == ("4/255" if robust else "8/255")
        assert cli.model.split.sizes(size) == ((0, size) if robust else (8, 8))
        assert cli.model.split.mode == "eval"
    assert cli.model.model.num_classes == cli.datamodule.data.num_classes == CLASSES[folder]
    assert set(cli.config_init.robustness.attacks) == {"fgsm", "pgd20", "segpgd20", "cospgd20"}
    window, crop = cli.model.model.window, cli.datamodule.data.augmentation.crop_size
    assert window is None or window == SlidingWindow(crop)
    # the last validation, and all that has an attack, comes at the end
    every = cli.config.robustness.every_n_epochs
    assert cli.config.trainer.max_epochs % every == every % cli.config.trainer.check_val_every_n_epoch == 0
    check_data(cli)


def check_data(cli: RobustSegCLI) -> None:
    """The splits open, a training batch has the size of the paper's crops, and the network has an answer for it."""
    data = cli.datamodule.data
    data.batch_size, data.global_batch_size = 2, None  # the trees are small
    for stage in ("fit", "test"):
        cli.datamodule.setup(stage)
    assert data.sample_ids("train")
    assert data.sample_ids("val") == data.sample_ids(data.test_split())
    batch = next(iter(data.train_loader()))
    height, width = data.augmentation.crop_size
    assert batch.images.shape == (2, 3, height, width)
    counted = batch.targets[batch.targets != data.ignore_index]
    assert set(counted.tolist()) <= set(range(data.num_classes))
    logits, aux_logits = cli.model.model.eval().forward_with_aux(torch.empty_like(batch.images, device="meta"))
    for answer in (logits, *([] if aux_logits is None else [aux_logits])):
        assert answer.shape == (2, data.num_classes, height, width)


def attacker_free(path: Path) -> dict[str, Any]:
    run = complete(path)
    del run["experiment"], run["model"]["attack"]
    if key(path).startswith("camvid") and path.stem.endswith("_standard"):  # cheaper epochs, more of them
        run["trainer"]["max_epochs"] = 30 if "_small" in path.stem else 200
    return run


@pytest.mark.parametrize("name", sorted({key(path).rsplit("_", 1)[0] for path in EXPERIMENTS.rglob("*.yaml")}))
def test_runs_of_one_network_differ_in_the_attacker_only(name: str):
    """The rows of a table are comparable."""
    runs = [path for path in EXPERIMENTS.rglob("*.yaml") if key(path).rsplit("_", 1)[0] == name]
    first, *others = [attacker_free(path) for path in runs]
    assert all(other == first for other in others)


@pytest.mark.parametrize("data", ["voc", "cityscapes"])
def test_models_of_a_transfer_table_see_the_same_images(data: str):
    compared = TRANSFER | (XIANG if data == "voc" else set())
    first, *others = [complete(EXPERIMENTS / data / f"{network}_standard.yaml")["data"] for network in sorted(compared)]
    assert all(other == first for other in others)
    for network in ("pspnet_r50", "deeplabv3_r50"):  # targets of Table 3
        assert complete(EXPERIMENTS / data / f"{network}_pgd3.yaml")["data"] == first


@pytest.mark.parametrize(
    ("run", "network"),
    [
        *((f"voc/{name}_standard", f"{name}_semseg") for name in ("pspnet_r50", "pspnet_r101", "deeplabv3_r50")),
        ("voc/upernet_convnext_t_robust_pgd5", "upernet_convnext_t_cvst"),
        ("ade20k/segmenter_vit_s_robust_pgd5", "segmenter_vit_s_pirat"),
    ],
)
def test_networks_are_those_of_the_reference_code(run: str, network: str):
    """So that its checkpoints fit them (docs/papers.md); only where they start from is the run's own."""
    ours, theirs = (complete(path) for path in (EXPERIMENTS / f"{run}.yaml", CONFIGS / "network" / f"{network}.yaml"))
    for each in (ours, theirs):
        for name in ("weights", "pretrained"):
            each["model"]["network"]["init_args"].pop(name, None)
    assert ours["model"]["network"] == theirs["model"]["network"]


def test_a_network_is_the_same_on_each_data_set():
    """Where a paper has it on several."""
    networks: dict[str, Any] = {}
    for path in RUNS:
        section = complete(path)["model"]["network"]
        assert networks.setdefault(path.stem.rsplit("_", 1)[0], section) == section


@pytest.mark.parametrize("path", RUNS, ids=key)
def test_header(path: Path):
    """What row it is, what is published, what is ours; the figures are those of the table in docs/papers.md."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = [line for line in lines if line.startswith("#")]
    assert head == lines[: len(head)]
    assert 2 <= len(head) <= 4
    text = " ".join(line[2:] for line in head)
    figures, published, rest = re.split(r"(Published|From the code)", text, maxsplit=1)
    assert published
    assert re.search(r"\b[Oo]urs\b", rest)
    row = [cells for cells in TABLE if f"[{key(path)}]" in cells[2] and cells[3].startswith("train")]
    assert row
    table = {figure for cells in row for figure in re.findall(r"\d+\.\d+", cells[4])}
    assert set(re.findall(r"\d+\.\d+", figures)) <= table


def test_every_link_of_the_table_is_a_file():
    links = re.findall(r"\]\(([^)]+)\)", PAPERS)
    assert len(links) > len(TABLE)
    assert [link for link in links if not (ROOT / "docs" / link).is_file()] == []
    assert [path for path in re.findall(r"configs/[\w/.]+\.yaml", PAPERS) if not (ROOT / path).is_file()] == []


def test_every_row_of_the_papers_is_in_the_table():
    """Numbers of rows as counted in the papers' tables, and every run at least once."""
    counts: dict[str, int] = {}
    for paper, *_ in TABLE:
        counts[paper] = counts.get(paper, 0) + 1
    assert counts == {
        "SegPGD, 1": 10, "SegPGD, 2": 12, "DS, 1": 7, "DS, 2": 7, "DS, 3": 5, "DS, 4": 4, "Xiang, 1": 4, "Xiang, 2": 8,
        "Xiao, 1": 16, "Xiao, BDD100K": 2, "PIR-AT": 6,
    }  # fmt: skip
    linked = {name for cells in TABLE for name in re.findall(r"\[([\w]+/[\w]+)\]", cells[2])}
    assert linked == ROWS
    assert all(len(cells) == 6 and cells[2].count("](") >= 1 for cells in TABLE)


def attacks_of(kind: str, name: str) -> dict[str, Any]:
    file = complete(CONFIGS / kind / f"{name}.yaml")
    section = file["robustness"] if kind == "robustness" else file["study"]["init_args"]
    found: dict[str, Any] = section["attacks"]
    return found


def settings(section: dict[str, Any]) -> dict[str, Any]:
    arguments: dict[str, Any] = section["init_args"]
    return arguments


def test_suites_have_the_columns_of_the_tables():
    segpgd = attacks_of("robustness", "paper_segpgd")
    assert {"cw", "deepfool", "bim_l2", "pgd10", "pgd20", "pgd40", "pgd100"} <= set(segpgd)
    assert {"fgsm", "mifgsm20", "pgd20", "pgd100", "pgd200"} <= set(attacks_of("robustness", "paper_xiang"))
    assert {"fs5", "fs1000", "ds1000"} <= set(attacks_of("study", "transfer_paper"))
    assert set(attacks_of("study", "multi_scale_paper")) == {"fs5", "fs1000", "ds1000"}
    assert set(attacks_of("study", "transfer_xiang")) == {"mifgsm20", "pgd20"}
    sea, pirat = attacks_of("robustness", "sea"), attacks_of("robustness", "paper_pirat")
    assert sea.keys() == pirat.keys()
    for name, section in pirat.items():
        assert {**settings(section), "eps": "8/255"} == settings(sea[name])
        assert settings(section)["eps"] == "4/255"


def test_xiang_steps_are_eps_over_their_number_from_the_clean_image():
    for kind, name in (("robustness", "paper_xiang"), ("study", "transfer_xiang")):
        for attack, section in attacks_of(kind, name).items():
            if not attack.startswith(("pgd", "mifgsm")):
                continue
            values = settings(section)
            assert Fraction(values["step_size"]) * values["steps"] == Fraction(values["eps"]) == Fraction(8, 255)
            assert attack.startswith("mifgsm") or values["random_start"] is False
    assert attacks_of("study", "transfer_xiang")["pgd20"] == attacks_of("robustness", "paper_xiang")["pgd20"]


def test_dynamic_scale_is_that_of_the_paper():
    for study in ("transfer_paper", "multi_scale_paper"):
        for name, section in attacks_of("study", study).items():
            values = settings(section)
            assert (values["eps"], values["step_size"], f"{name[:2]}{values['steps']}") == (0.03, 0.01, name)
            assert section["class_path"] == (DS.__name__ if name.startswith("ds") else "BIM")
            assert name.startswith("fs") or values["scale_range"] == 0.5


@pytest.mark.parametrize(
    ("suite", "targets"),
    [
        ("paper_xiao", {"pure", "text", "remapping", "strip"}),
        ("paper_xiao_kitty", {"kitty"}),
        ("paper_xiao_scene", {"scene"}),
    ],
)
def test_xiao_has_both_attacks_on_each_target(suite: str, targets: set[str]):
    attacks = attacks_of("robustness", suite)
    assert set(attacks) == {f"{attack}_{target}" for attack in ("dag", "houdini") for target in targets}
    for name, section in attacks.items():
        kind, _, target = name.partition("_")
        assert section["class_path"] == Targeted.__name__
        inner = settings(section)["attack"]
        assert inner["class_path"] == {"dag": DAG, "houdini": Houdini}[kind].__name__
        assert settings(inner)["targeted"]
        assert settings(inner)["steps"] == 200
        assert settings(section)["target_map"] == settings(attacks[f"dag_{target}"])["target_map"]


def test_robust_runs_attack_from_the_clean_image(trees: Trees, tmp_path: Path):
    cli = build(EXPERIMENTS / "voc" / "pspnet_r50_robust_pgd5.yaml", trees, tmp_path)
    assert isinstance(cli.model.attack, PGD)
    assert cli.model.attack.random_start is False


@pytest.mark.parametrize("path", [path for path in RUNS if "weights" in network_arguments(path)], ids=key)
def test_runs_from_a_file_start_from_nothing_else(
    path: Path, trees: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Without the robust weights, or those that timm does not have, nothing is trained."""

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=re.escape(network_arguments(path)["weights"])):
        RobustSegCLI(["--config", str(path), *trees[path.parent.name], "--trainer.default_root_dir", str(tmp_path)])
