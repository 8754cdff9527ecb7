"""Who takes part in the demo and what they have agreed so far."""

from dataclasses import dataclass, field
from typing import Any

from market.demo.client import Participant
from market.demo.data import DataFiles
from market.demo.transcript import Transcript

CURRENCY = "CNY"


@dataclass
class Product:
    """A registered product and its offer."""

    product_id: str
    listing_id: str = ""
    plans: dict[str, str] = field(default_factory=dict)


@dataclass
class Stage:
    """Everything that the acts hand on to each other."""

    base_url: str
    run: str
    transcript: Transcript
    files: DataFiles
    operator: Participant
    people: dict[str, Participant] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)
    agreements: dict[str, str] = field(default_factory=dict)
    tokens: dict[str, dict[str, Any]] = field(default_factory=dict)
    dispute_id: str = ""

    def __getitem__(self, name: str) -> Participant:
        return self.people[name]

    def participant(self, name: str) -> Participant:
        """A new, not yet registered participant of this run."""
        made = Participant(self.base_url, self.run, name)
        self.people[name] = made
        return made

    def close(self) -> None:
        """Close everybody's connections."""
        for person in (self.operator, *self.people.values()):
            person.close()
