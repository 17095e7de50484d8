"""Reading configs/manifest.yml: every row of the paper, and what trains it."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
SECTIONS = ('paper', 'boxes', 'evaluations', 'data', 'notes', 'tables', 'rows')
KINDS = ('baseline', 'ours', 'comparison', 'control', 'beyond', 'figure')


@dataclass(frozen=True)
class RecipeBatch:
    """The recipe's devices and batch per device; their product is kept whatever is available."""

    gpus: int
    batch: int

    @property
    def total(self) -> int:
        return self.gpus * self.batch


@dataclass(frozen=True)
class Table:
    """A table of the report: where it stands in the paper, its columns, and how its rows are measured."""

    id: str
    where: str
    title: str
    columns: tuple[str, ...]
    evaluation: str | None


@dataclass(frozen=True)
class Row:
    """One row: a trained model with the paper's figures, or a figure made from other rows."""

    id: str
    table: str
    kind: str
    method: str
    config: str | None = None
    venue: str = ''
    backbone: str = ''
    input: str = ''
    nearest: str = ''
    launch: RecipeBatch | None = None
    paper: tuple[float | None, ...] = ()
    published: tuple[float | None, ...] = ()
    notes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    tool: str = ''

    @property
    def runnable(self) -> bool:
        return bool(self.config or self.tool)


@dataclass(frozen=True)
class Manifest:
    """The whole manifest; ``root`` is what its relative paths start from."""

    root: Path
    paper: dict
    boxes: dict
    evaluations: dict
    data: dict
    notes: dict
    tables: dict[str, Table]
    rows: dict[str, Row] = field(default_factory=dict)

    def select(self, names: Iterable[str]) -> list[Row]:
        """The rows meant by ids, table names or patterns such as ``table1-*``, in the manifest's order of each name.

        Raises:
            ValueError: a name that means nothing; the nearest known ones are listed.
        """
        chosen: dict[str, Row] = {}
        for name in names:
            found = [row for row in self.rows.values() if row.table == name or fnmatch.fnmatch(row.id, name)]
            if not found:
                tables = ', '.join(self.tables)
                near = difflib.get_close_matches(name.lower(), [*self.rows, *self.tables], 3)
                hint = f'nearest are {", ".join(near)}; all are shown by `list`' if near else 'all are shown by `list`'
                raise ValueError(f'row must be an id, a pattern or a table ({tables}), got {name!r}; {hint}')
            chosen.update((row.id, row) for row in found)
        return list(chosen.values())

    def boxes_of(self, evaluation: str, boxes: str) -> str:
        """The name of the person boxes, where the evaluation reads them; else an empty one."""
        return boxes if any('{boxes}' in option for option in self.evaluations[evaluation].get('options', [])) else ''

    def config_path(self, config: str) -> Path:
        """The file of a row's config: in this repository, or in the installed MMPose for ``mmpose::``."""
        if not config.startswith('mmpose::'):
            return self.root / config
        from mmengine.utils import get_installed_path

        return Path(get_installed_path('mmpose')) / '.mim' / 'configs' / config[len('mmpose::'):]


def load(path: Path, root: Path = ROOT) -> Manifest:
    """Read and check a manifest.

    Args:
        path: the YAML file.
        root: what its relative paths start from.

    Raises:
        ValueError: naming the row and field that do not fit.
    """
    content = _read(path)
    tables = {
        name: Table(name, table['where'], table['title'], tuple(table['columns']), table['evaluation'])
        for name, table in content['tables'].items()
    }
    sections = {name: content[name] or {} for name in SECTIONS[:5]}
    manifest = Manifest(root=root, tables=tables, **sections)
    for entry in content['rows']:
        row = _row(entry)
        if row.id in manifest.rows:
            raise ValueError(f'rows must have different ids, got {row.id!r} twice')
        manifest.rows[row.id] = row
    for name, settings in manifest.evaluations.items():
        absent = [key for key in ('title', 'data', 'metrics', 'scale') if key not in settings]
        if absent or not set(settings['data']) <= set(manifest.data):
            raise ValueError(f'evaluation {name!r} must say title, data among {sorted(manifest.data)}, metrics, scale, got {settings}')
    for row in manifest.rows.values():
        _check(row, manifest)
    return manifest


def _read(path: Path) -> dict:
    try:
        content = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} must be YAML: {error}') from None
    missing = [name for name in SECTIONS if not isinstance(content, dict) or name not in content]
    if missing:
        raise ValueError(f'{path} must hold the sections {", ".join(SECTIONS)}, missing are {", ".join(missing)}')
    return content


def _row(entry: dict) -> Row:
    known = {each.name for each in fields(Row)}
    unknown = sorted(set(entry) - known)
    if unknown:
        raise ValueError(f'row {entry.get("id")!r} must have fields among {sorted(known)}, got {unknown}')
    absent = [name for name in ('id', 'table', 'kind', 'method') if not entry.get(name)]
    if absent:
        raise ValueError(f'row {entry.get("id")!r} must say its id, table, kind and method, missing are {absent}')
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    if values.get('launch'):
        values['launch'] = RecipeBatch(**values['launch'])
    return Row(**{key: value for key, value in values.items() if value is not None})


def _check(row: Row, manifest: Manifest) -> None:
    if row.table not in manifest.tables:
        raise ValueError(f'row {row.id!r} must belong to one of {list(manifest.tables)}, got {row.table!r}')
    if row.kind not in KINDS:
        raise ValueError(f'row {row.id!r} must be one of {KINDS}, got {row.kind!r}')
    columns = manifest.tables[row.table].columns
    for name in ('paper', 'published'):
        figures = getattr(row, name)
        if figures and len(figures) != len(columns):
            raise ValueError(f'row {row.id!r}: {name} must hold {len(columns)} figures {columns}, got {len(figures)}')
    for name, known in (('notes', manifest.notes), ('needs', manifest.rows)):
        missing = [each for each in getattr(row, name) if each not in known]
        if missing:
            raise ValueError(f'row {row.id!r}: {name} must exist in the manifest, got {missing}')
    if row.config and row.launch is None:
        raise ValueError(f'row {row.id!r} has a config and must say how it is launched')
