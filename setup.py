"""Package layout; everything else about the package is declared in setup.cfg."""

from setuptools import find_packages, setup


setup(
    # The recipes live beside the package, where a reader looks for them, and are installed inside it.
    packages=[*find_packages(include=["hf_reward", "hf_reward.*"]), "hf_reward.recipes"],
    package_dir={"hf_reward.recipes": "recipes"},
    package_data={
        "hf_reward": ["py.typed", "cli/help.txt", "data/templates/*.jinja", "hub/card_template.md"],
        "hf_reward.recipes": ["*.yaml", "README.md", "accelerate_configs/*"],
    },
)
