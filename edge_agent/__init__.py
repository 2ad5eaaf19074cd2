"""The edge agent: watches a save folder, classifies every new micrograph, shows where the network looked."""

__version__ = "0.7.0"
