"""The command `shardwise`: one file for each of its commands."""

from shardwise.cli._app import app as app
