"""What inductor needs on a CPU: a C++ compiler, and Python's headers. The product itself compiles on GPUs alone."""

import shutil
import sysconfig
from pathlib import Path

import pytest

_FOUND = any(map(shutil.which, ("c++", "g++", "clang++"))) and Path(sysconfig.get_path("include"), "Python.h").is_file()
needs_a_compiler = pytest.mark.skipif(not _FOUND, reason="needs a C++ compiler and Python's headers")
