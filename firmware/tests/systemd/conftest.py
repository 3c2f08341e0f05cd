"""One booted container for all tests of the units."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.guest.build import Missing
from tests.systemd.build import root
from tests.systemd.container import Container


@pytest.fixture(scope="package")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """A booted container with Plugmeter's overlay."""
    try:
        tree = root()
    except Missing as missing:
        pytest.skip(str(missing))
    with Container(tree, tmp_path_factory.mktemp("container")) as container:
        yield container
