"""The answer first: docs/evidence.md and the block of the README, from the rows and sentences that a study calls its headline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tools.pages import table
from tools.studies.config import Study
from tools.studies.records import conditions, of_stage, sentence, spread

SHOWN = {'AP': 'AP', 'PCK@0.05': 'PCK@0.05'}


class Headline:
    """Rows and networks of a study's ``headline``, with the records that they show.

    Args:
        study: the study.
        records: all that was gathered of it.
    """

    def __init__(self, study: Study, records: list[dict]) -> None:
        self.study, spec = study, study.headline
        self.rows, self.networks = spec['rows'], spec['networks']
        self.records = {name: [record for stage in network['stages'] for record in of_stage(records, stage, network['backbone'])]
                        for name, network in self.networks.items()}
        self.used: list[dict] = []
        self.cells = {(row, name): self._seeds(*self.rows[row]['reads'], self.records[name]) for row in self.rows for name in self.networks}

    def _seeds(self, supervision: str, decoder: str, records: list[dict]) -> list[dict]:
        """Metrics of a row on a network, one for each seed; of a run that stands in two stages the first one's."""
        found = {}
        for record in records:
            if self.study.trains_alike(record['supervision'], supervision) and decoder in record['decoders']:
                found.setdefault(record['seed'], record)
        self.used += found.values()
        return [record['decoders'][decoder] for record in found.values()]

    def values(self, row: str, key: str, network: str) -> list[float]:
        """The values of a cell, as sentences ask for them."""
        return [metrics[key] for metrics in self.cells[row, network]]

    def table(self) -> str:
        """AP and PCK@0.05 of each row on each network."""
        most = {name: max(len(self.cells[row, name]) for row in self.rows) for name in self.networks}
        heads = [f'{network["title"]}, {self.records[name][0]["epochs"]} epochs, {seed_count(most[name])}'
                 for name, network in self.networks.items()]
        lines = [[spec['title'], *(self._cell(row, name, most[name]) for name in self.networks)] for row, spec in self.rows.items()]
        return table(['AP / PCK@0.05 in percent', *heads], lines)

    def _cell(self, row: str, network: str, most: int) -> str:
        seeds = len(self.cells[row, network])
        if not seeds:
            return 'not run'
        shown = ' / '.join(spread(self.values(row, key, network), key) for key in SHOWN)
        return shown + (f' ({seed_count(seeds)})' if seeds < most else '')

    def sentences(self, name: str) -> list[str]:
        """The study's ``answer`` or ``cautions`` with the table's numbers in them."""
        return list(filter(None, (sentence(each, self.values) for each in self.study.headline[name])))

    def draw(self, file: Path) -> None:
        """Every seed of every row as a dot, AP and PCK@0.05 on each network; a bar at the mean."""
        from tools.studies.plots import save, subplots

        axes = subplots(1, len(SHOWN) * len(self.networks), (12, 0.5 + 0.38 * len(self.rows)), sharey=True)
        columns = [(name, key) for name in self.networks for key in SHOWN]
        for axis, (name, key) in zip(axes, columns):
            for place, row in enumerate(self.rows):
                values = [100 * value for value in self.values(row, key, name)]
                axis.plot(values, [place] * len(values), 'o', color=f'C{place}', markersize=5, alpha=0.7)
                if values:
                    axis.plot([sum(values) / len(values)] * 2, [place - 0.3, place + 0.3], color=f'C{place}')
            axis.set_title(f'{self.networks[name]["title"]}: {key} (%)', fontsize=9)
            axis.grid(alpha=0.3)
        axes[0].set_yticks(range(len(self.rows)))
        axes[0].set_yticklabels([spec['title'].replace('*', '') for spec in self.rows.values()], fontsize=8)
        axes[0].invert_yaxis()
        save(axes[0].figure, file)

    def block(self) -> str:
        """Answer, table and cautions for another page."""
        return '\n'.join([' '.join(self.sentences('answer')), '', self.table(), '', *(f'- {each}' for each in self.sentences('cautions'))])


def seed_count(number: int) -> str:
    return f'{number} seed{"s" * (number > 1)}'


def page(answered: Headline | None, links: Sequence[str], folder: Path) -> str:
    """The whole of docs/evidence.md."""
    lines = ['# Evidence on real people', '', 'Written by `tools/study.py report`; change the study files, not this page.', '']
    if answered is None:
        lines += ['Not run yet.', '']
    else:
        answered.draw(folder / 'headline.png')
        lines += [f'**Answer.** {" ".join(answered.sentences("answer"))}', '', answered.table(), '',
                  f'![every seed of every row]({folder.name}/headline.png)', '', 'Read with care:', '',
                  *(f'- {each}' for each in answered.sentences('cautions')), '', conditions(answered.used), '']
    return '\n'.join([*lines, *links]).rstrip() + '\n'
