"""The classes of pglast's trees without its stubs, which take every field for optional, whatever the grammar says."""

from typing import Any

import pglast

ast: Any = pglast.ast
