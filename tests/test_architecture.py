"""Dependencies between parts, checked in real processes; the linter checks the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PROCESSES = {
    "API": "from service.app import create_app; from service.settings import Settings; create_app(Settings())",
    "maintainer": "import service.lifecycle.maintenance",
    "embedded supervisor": "import service.processes.embedded",
    "Celery worker": (
        "import workers.supervisor.app, workers.supervisor.tasks, workers.supervisor.supervise, workers.commands"
    ),
    "client": "import gradinspect; gradinspect.Client",
    "command line": "import gradinspect.cli",
    "rules and reports": "import gradinspect.rules, gradinspect.report.text.terminal, gradinspect.report.html.render",
    "intake": "import gradinspect.intake",
}


def modules_after(program: str, tmp_path: Path) -> set[str]:
    """Return the names of all modules loaded after `program` has run."""
    printed = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}\nimport sys\nprint(*sys.modules)"],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=120,
        env={"PATH": "", "HOME": str(tmp_path), "GRADINSPECT_DATA_DIR": str(tmp_path)},
    )  # fmt: skip
    assert printed.returncode == 0, printed.stderr
    return set(printed.stdout.split())


@pytest.mark.parametrize("process", PROCESSES)
def test_torch_is_loaded_only_by_the_process_that_runs_models(process: str, tmp_path: Path) -> None:
    assert "torch" not in modules_after(PROCESSES[process], tmp_path)


def test_the_process_that_runs_models_loads_no_part_of_the_service(tmp_path: Path) -> None:
    loaded = modules_after("import workers.child.runner, workers.child.forkserver", tmp_path)
    assert not {name for name in loaded if name.split(".")[0] in ("service", "celery", "redis", "sqlalchemy", "flask")}


def test_the_engine_loads_no_flask(tmp_path: Path) -> None:
    loaded = modules_after("import gradinspect.inspection.job, gradinspect.inspection.measure", tmp_path)
    assert "torch" in loaded
    assert "flask" not in loaded


@pytest.mark.parametrize("package", ["gradinspect", "service", "workers"])
def test_only_settings_read_the_environment(package: str) -> None:
    """`os.environ` is used in service/settings.py, to make a child's environment, for torch's and the XDG variable."""
    passes_on = {"service/processes/broker.py", "service/processes/embedded.py", "workers/supervisor/fork_client.py"}
    cuda_visible_devices = {"workers/supervisor/devices.py", "workers/child/forkserver.py"}
    xdg_config_home = {"gradinspect/cli/credentials.py"}
    allowed = {"service/settings.py", *passes_on, *cuda_visible_devices, *xdg_config_home}
    readers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv", "environb")
        and isinstance(node.value, ast.Name) and node.value.id == "os"
    }  # fmt: skip
    assert readers <= allowed


def test_no_module_unpickles() -> None:
    """No module of the project imports pickle or a similar module, or calls torch.load."""
    found = [
        path.relative_to(ROOT).as_posix()
        for package in ("gradinspect", "service", "workers", "migrations")
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if _loads_pickle(node)
    ]
    assert found == []


def test_sql_statements_are_built_in_service_db_only() -> None:
    """`select`, `update`, `insert` and similar functions are imported only in service/db and migrations."""
    builders = {"select", "update", "insert", "delete", "exists", "text", "func", "union", "union_all"}
    outside = [path for folder in ("service", "workers") for path in (ROOT / folder).rglob("*.py")]
    found = [
        path.relative_to(ROOT).as_posix()
        for path in outside
        if not path.is_relative_to(ROOT / "service" / "db")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sqlalchemy"
        and builders & {alias.name for alias in node.names}
    ]  # fmt: skip
    assert found == []


def test_views_have_a_few_statements() -> None:
    """Count statements: a view has at most ten, including nested ones, without the docstring."""
    sizes = {
        f"{path.stem}.{node.name}": sum(isinstance(part, ast.stmt) for part in ast.walk(node)) - 2
        for folder in ("api", "web")
        for path in (ROOT / "service" / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and any(_is_route(decorator) for decorator in node.decorator_list)
    }
    assert len(sizes) > 20
    assert {name: size for name, size in sizes.items() if size > 10} == {}


def _is_route(decorator: ast.expr) -> bool:
    call = decorator.func if isinstance(decorator, ast.Call) else None
    return isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name) and call.value.id == "blueprint"


def _loads_pickle(node: ast.AST) -> bool:
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] in unsafe for alias in node.names)
    if isinstance(node, ast.ImportFrom):
        return (node.module or "").split(".")[0] in unsafe
    called = node.func if isinstance(node, ast.Call) else None
    return (
        isinstance(called, ast.Attribute)
        and called.attr == "load"
        and isinstance(called.value, ast.Name)
        and called.value.id == "torch"
    )
