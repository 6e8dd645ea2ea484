"""Results are written in one place: a list of all other places that write, made from the code, each with its reason."""

from __future__ import annotations

import ast

from tests.opening.calls import calls

NAMES = {
    *("write_text", "write_bytes", "savefig", "imwrite", "save_file", "savez", "savez_compressed", "savemat", "touch"),
    *("copyfile", "copy2", "copytree", "symlink_to", "hardlink_to", "ftruncate", "mkstemp", "mkdtemp"),
    *("NamedTemporaryFile", "new_file", "write_table", "write_feather", "write_csv"),
}
FULL = {
    *("os.replace", "os.rename", "os.link", "os.symlink", "os.truncate", "torch.save", "np.save", "np.savetxt"),
    *(
        "json.dump",
        "pickle.dump",
        "shutil.copy",
        "shutil.move",
        "shutil.copyfileobj",
        "tempfile.TemporaryFile",
        "Image.save",
    ),
}
ALLOWED = {
    "cli/survey.py:_new": "a file that must not be there before",
    "doctor/isolation.py:_captured": "its own temporary file",
    "doctor/paths.py:check_folder": "its own folder, to see what a file system can do",
    "doctor/paths.py:_written": "the same",
    "doctor/paths.py:_replace": "the same",
    "doctor/paths.py:_symbolic": "the same",
    "doctor/paths.py:_hard": "the same",
    "doctor/paths.py:_lock": "the same",
    "doctor/paths.py:_writable": "the same",
    "evaluation/pictures.py:_write": "into memory",
    "evaluation/report/drawing.py:svg_of": "into memory",
    "evaluation/store.py:_create": "records are appended, each batch whole or not at all",
    "evaluation/store.py:_cut": "the same",
    "training/csv_file.py:CsvFile._write": "by Lightning's file system, which may be a remote one",
    "resume/checkpoint_files.py:serialise": "into the file of robustseg.files, or memory",
    "resume/checkpoint_files.py:link_last": "a link",
    "resume/checkpoint_files.py:_link": "a link, or a copy where there are none",
}


def writes(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    last = name.rpartition(".")[2]
    if last == "open":
        values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
        modes = [value.value for value in values if isinstance(value, ast.Constant) and isinstance(value.value, str)]
        return any(set(mode) & set("wax+") and set(mode) <= set("rwaxbt+") for mode in modes)
    return name in FULL or last in NAMES


def test_nothing_else_writes_a_file():
    found = {
        call.place
        for call in calls()
        if call.path not in ("files.py", "writing/rough.py") and call.module != "robustseg.files" and writes(call.node)
    }
    assert found == ALLOWED.keys(), "write it by robustseg.files, or name the place and the reason here"
