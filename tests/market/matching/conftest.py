"""What most tests of matching trade in."""

import pytest

from market.kernel.context import Kernel
from tests.market.matching.factories import Scene, open_scene


@pytest.fixture
async def scene(kernel: Kernel) -> Scene:
    """A market with one plan."""
    return await open_scene(kernel)
