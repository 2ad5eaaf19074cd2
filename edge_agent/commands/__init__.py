"""The commands of `edge-agent`, grouped by what a person is after."""
