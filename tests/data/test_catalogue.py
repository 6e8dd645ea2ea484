"""The list of data sets and its command."""

import pytest

import robustseg.data
from robustseg.cli.main import main
from robustseg.data import DataError, FileData, SegmentationData, public
from robustseg.data.catalogue import describe, find_dataset
from robustseg.data.facts import DATASETS
from robustseg.shipped import complete, find


def test_every_data_module_is_in_it():
    classes = {name: thing for name, thing in vars(public).items() if isinstance(thing, type)}
    modules = {name for name, thing in classes.items() if issubclass(thing, SegmentationData)}
    assert [facts.name for facts in DATASETS] == sorted(modules - {"SegmentationData", "FileData"})
    assert issubclass(robustseg.data.CamVid, FileData)


@pytest.mark.parametrize("row", DATASETS, ids=lambda row: row.name)
def test_rows_are_complete_and_their_configs_exist(row):
    assert all((row.about, row.layout, row.source, row.licence, row.test_split))
    config = complete(find(row.config))
    assert config["data"]["class_path"] == row.name
    assert getattr(robustseg.data, row.name).__doc__.splitlines()[0] == row.about


@pytest.mark.parametrize("full", [True, False])
def test_texts_fit_into_100_columns(full):
    for row in DATASETS:
        assert max(map(len, describe(row, full).splitlines())) <= 100
        assert all(name in " ".join(describe(row, full=True).split()) for name in row.class_names)


def test_all_are_listed(capsys):
    assert main(["datasets"]) == 0
    text = capsys.readouterr().out
    for row in DATASETS:
        assert f"{row.name} (" in text
        assert row.config in text
    assert "leftImg8bit/{train,val,test}/CITY/*_leftImg8bit.png" in text
    assert "train 1464, trainaug 10582, val 1449; scored on val" in text
    assert "tvmonitor" not in text


def test_one_in_full(capsys):
    assert main(["datasets", "pascalvoc"]) == 0
    text = capsys.readouterr().out
    assert "20 tvmonitor" in text
    assert "Cityscapes" not in text


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("VOC", "did you mean PascalVOC?"),
        ("Citiscape", "did you mean Cityscapes?"),
        ("zzz", "there are ADE20K, BDD100K"),
        ("", "there are ADE20K, BDD100K"),
    ],
)
def test_unknown_name(name, said, capsys):
    with pytest.raises(DataError, match="there is no data set"):
        find_dataset(name)
    assert main(["datasets", name]) != 0
    assert said in capsys.readouterr().err
