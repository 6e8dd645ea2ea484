"""Files that include others: order, classes, and what a stranger's file must not do."""

import pytest

from robustseg.shipped import ConfigFileError, complete, files
from robustseg.shipped.includes import KEY, merge, read


def write(folder, **texts):
    for name, text in texts.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_later_ones_win_then_its_own_keys(tmp_path):
    top = write(
        tmp_path,
        top="include: [one.yaml, parts/two.yaml]\nc: {y: top}\n",
        one="a: 1\nb: {x: 1, y: 1}\nlist: [1, 2]\nc: {x: 1}\n",
        **{"parts/two": "include: [three.yaml]\nb: {y: 2}\nlist: [3]\n", "parts/three": "b: {y: 3, z: 3}\n"},
    )
    assert complete(top) == {"a": 1, "b": {"x": 1, "y": 2, "z": 3}, "list": [3], "c": {"x": 1, "y": "top"}}


@pytest.mark.parametrize(
    ("base", "top", "arguments"),
    [
        ("PSPNet", "DeepLabV3", {"b": 2}),
        ("PSPNet", "robustseg.models.PSPNet", {"a": 1, "b": 2}),
        ("robustseg.models.PSPNet", "PSPNet", {"a": 1, "b": 2}),
        ("PSPNet", None, {"a": 1, "b": 2}),
        ("Net", "PSPNet", {"b": 2}),
    ],
)
def test_arguments_go_with_their_class(base, top, arguments):
    changed = {"init_args": {"b": 2}} | ({"class_path": top} if top else {})
    merged = merge({"net": {"class_path": base, "init_args": {"a": 1}}}, {"net": changed})
    assert merged == {"net": {"class_path": top or base, "init_args": arguments}}


def test_what_is_merged_is_left_as_it_was():
    base, top = {"a": {"x": 1}}, {"a": {"y": 2}}
    merge(base, top)["a"]["z"] = 3
    assert (base, top) == ({"a": {"x": 1}}, {"a": {"y": 2}})
    assert merge({"attack": {"class_path": "PGD"}}, {"attack": None}) == {"attack": None}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("include: network/pspnet_r50", "include is 'network/pspnet_r50'; expected a list"),
        ("include: [1]", r"include is \[1\]; expected a list"),
        ("include: [network/pspnet_r05]", "did you mean network/pspnet_r50"),
        ("include: [missing.yaml]", "missing.yaml: neither a file nor a shipped configuration"),
        ("include: [slurm/start.sh]", "neither a file nor"),
        ("include: [top.yaml]", r"includes itself: \S+top.yaml → \S+top.yaml"),
        ("include: [list.yaml]", "list.yaml holds list; expected keys"),
        ("include: [broken.yaml]", "broken.yaml cannot be read as YAML"),
        ("include: [binary.yaml]", "binary.yaml cannot be read as YAML"),
        ("include: [circle.yaml]", "circle.yaml → .*back.yaml → .*circle.yaml"),
    ],
)
def test_one_error_names_file_and_key(text, words, tmp_path):
    top = write(
        tmp_path, top=text, list="[1]", broken="a: [", circle="include: [back.yaml]", back="include: [circle.yaml]"
    )
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(ConfigFileError, match=words) as caught:
        complete(top)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_strangers_file_reads_nothing_outside_of_its_folder(tmp_path):
    secret = write(tmp_path, secret="password: 1")
    folder = tmp_path / "stranger"
    write(folder, **{"below/honest": "a: 1"})
    (folder / "link.yaml").symlink_to(secret)
    (folder / "notes.txt").write_text("password: 1")
    for entry in ("../secret.yaml", str(secret), "below/../../secret.yaml", "link.yaml", "~/secret.yaml", "notes.txt"):
        with pytest.raises(ConfigFileError, match=r"outside of this file's folder|neither a file nor"):
            complete(write(folder, top=f"include: ['{entry}']"))
    assert complete(write(folder, top="include: [below/honest.yaml, network/fcn_small]")).keys() == {"a", "model"}


def test_no_shipped_file_repeats_what_it_includes():
    """A row of a table says what is its own, so that what rows share is changed in one place."""
    import yaml

    for name, path in files().items():
        own = read(path, yaml.safe_load) if path.suffix == ".yaml" else {}
        others = own.pop(KEY, [])
        assert others or not name.startswith("experiment/")
        included = {}
        for other in others:
            included = merge(included, complete(files()[other]))
        assert repeated(own, included) == [], name


def repeated(own, included, prefix=""):
    found = []
    for key, value in own.items():
        old = included.get(key, "absent")
        if isinstance(value, dict) and isinstance(old, dict):
            changed = "class_path" in value and value["class_path"] != old.get("class_path")
            found += [] if changed else repeated(value, old, f"{prefix}{key}.")
        elif value == old and key != "class_path":
            found.append(prefix + key)
    return found
