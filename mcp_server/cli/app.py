"""The command line: one group of commands a module. Errors of ours are one line and exit code 1."""

from __future__ import annotations

import sys

import click

from mcp_server.cli.approvals import approvals, approve, deny
from mcp_server.cli.doctor import doctor
from mcp_server.cli.keys import key
from mcp_server.cli.limits import limit
from mcp_server.cli.serve import serve
from mcp_server.cli.service import service
from mcp_server.cli.setup import setup
from mcp_server.cli.status import status
from mcp_server.cli.stop import stop
from mcp_server.cli.workspaces import workspace
from mcp_server.errors import OffhandError
from mcp_server.release import release


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(release(), prog_name="offhand")
def offhand() -> None:
    """Say it offhand; your own machine does it.

    Start with `offhand serve`. It keeps everything under OFFHAND_HOME.
    """


@offhand.command("mcp")
def mcp() -> None:
    """Serve one MCP client over stdin and stdout. Clients start this: see `offhand setup`, or mcp-config.json.

    It starts the server in the background if none runs.
    """
    raise AssertionError("handled before click is imported")  # pragma: no cover


for command in (serve, stop, status, approvals, approve, deny, setup, key, workspace, limit, service, doctor):
    offhand.add_command(command)


def run() -> int:
    """Run, and turn our errors into a line on stderr."""
    try:
        return int(offhand.main(prog_name="offhand", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.exceptions.Abort:
        return 130
    except OffhandError as error:
        remedy = next((issue.fix for issue in error.issues if issue.fix), "")
        click.echo(f"offhand: {error.message}{' ' + remedy if remedy else ''}", err=True)
        return 1
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        click.echo(f"offhand: {error}. OFFHAND_HOME must be a folder that you may write to, with room.", err=True)
        return 1
