"""Integrations whose package is not installed."""

import importlib
import importlib.util

import pytest


@pytest.mark.parametrize("package", ["openenv", "verifiers"])
def test_a_missing_package_is_named_with_what_to_install(package):
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(ImportError, match=rf"needs .*pip install 'fastkernels-env\[{package}\]'"):
        importlib.import_module(f"fastkernels_env.integrations.{package}")
