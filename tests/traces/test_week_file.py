"""The head of a file that is too large to hold."""

import subprocess
import sys
from pathlib import Path

from slosgate.traces import sources
from slosgate.traces.sources import Places
from slosgate.traces.windows import Slice

ROW = "2024-05-10 {h:02d}:{m:02d}:{s:02d}.{f:06d}+00:00,{p},{o}\n"
PEAK = """
import sys
from pathlib import Path
from slosgate.traces import sources
from slosgate.traces.windows import Slice
places = sources.Places(folder=Path(sys.argv[1]), cache=Path(sys.argv[1]), offline=True)
print(len(sources.load("azure-code-2024", places, part=Slice(0, 3600)).requests))
# Not ru_maxrss, which a child inherits from the process that started it.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(int(status["VmHWM"].split()[0]) // 1024)
"""


def write_week(path: Path, rows_an_hour: int, hours: int, tail: str) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
        for hour in range(hours):
            for i in range(rows_an_hour):
                minute, rest = divmod(i * 3600 / rows_an_hour, 60)
                second, fraction = int(rest), int(rest % 1 * 1e6)
                file.write(ROW.format(h=hour, m=int(minute), s=second, f=fraction, p=1 + i % 4000, o=1 + i % 300))
        file.write(tail)


def test_nothing_is_read_behind_the_hour_that_was_asked_for(tmp_path: Path) -> None:
    write_week(tmp_path / "AzureLLMInferenceTrace_code_1week.csv", 1000, 3, tail="this is no row\n")
    places = Places(folder=tmp_path, cache=tmp_path, offline=True)
    assert len(sources.load("azure-code-2024", places, part=Slice(0, 3600)).requests) == 1000
    assert len(sources.load("azure-code-2024", places, part=Slice(3600, 7200)).requests) == 1000


def test_the_first_hour_of_a_busy_week_fits_in_300_megabytes(tmp_path: Path) -> None:
    write_week(tmp_path / "AzureLLMInferenceTrace_code_1week.csv", 100_000, 2, tail="")  # 16.8 million in a week
    found = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    requests, megabytes = map(int, found.stdout.split())
    assert requests == 100_000
    assert megabytes < 300
