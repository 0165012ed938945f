"""The tables of README.md, benchmarks/README.md and kernels/*.md, made from the JSON of the benchmarks.

python -m benchmarks.report        rewrites the text between the markers of these pages
"""

import json
from pathlib import Path

from benchmarks.deep import PAGE_TABLES
from benchmarks.gpu.tables import gpu_page, gpu_seen, gpu_summary
from benchmarks.program import RESULTS, Report, options
from benchmarks.tables import TABLES
from benchmarks.variants import KERNEL_PAGES, variants_table

NOT_RECORDED = "`make gpu` compares gpuload with other loaders on a GPU. Its figures were not recorded yet."
README = Path(__file__).parent.parent / "README.md"
PAGE = Path(__file__).parent / "README.md"
KERNELS = Path(__file__).parents[1] / "kernels"


def renew(text: str, name: str, content: str) -> str:
    """Replace the text between the markers `<!-- benchmark:name -->` and `<!-- /benchmark:name -->`."""
    begin, end = f"<!-- benchmark:{name} -->", f"<!-- /benchmark:{name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"the README must hold {begin} and, after it, {end}: add both where the table belongs")
    return f"{before}{begin}\n{content}\n{end}{after}"


def load(name: str, results: Path = RESULTS, *, needed: bool = True) -> list[Report]:
    """Reports of a benchmark, one for each machine. Raise FileNotFoundError if there is none and one is needed."""
    reports = [json.loads(file.read_text()) for file in sorted(results.glob(f"{name}-*.json"))]
    if needed and not reports:
        raise FileNotFoundError(f"{results} holds no {name}-*.json: run python -m benchmarks.{name} first")
    return reports


def main(*arguments: str) -> None:
    asked = options(__doc__, arguments, readme=README, page=PAGE, kernels=KERNELS, results=RESULTS)
    text = asked.readme.read_text()
    for name, table in TABLES.items():
        text = renew(text, name, "\n\n".join(table(report) for report in load(name, asked.results)))
    gpus = load("gpu", asked.results, needed=False)
    text = renew(text, "gpu", "\n\n".join(map(gpu_summary, gpus)) or NOT_RECORDED)
    text = renew(text, "seen", "\n\n".join(map(gpu_seen, gpus or load("measured", asked.results))))
    asked.readme.write_text(text)
    text = asked.page.read_text()
    for name, (sources, table_of) in PAGE_TABLES.items():
        text = renew(text, name, table_of(*(load(source, asked.results)[0] for source in sources)))
    text = renew(text, "gpu", "\n\n".join(map(gpu_page, gpus)) or NOT_RECORDED)
    asked.page.write_text(text)
    (variants, *_) = load("variants", asked.results)
    for page, kernel in KERNEL_PAGES.items():
        text = (asked.kernels / page).read_text()
        (asked.kernels / page).write_text(renew(text, "variants", variants_table(variants, kernel)))
    print(f"{asked.readme}: {', '.join(TABLES)}\n{asked.page}: {', '.join(PAGE_TABLES)}")


if __name__ == "__main__":
    main()
