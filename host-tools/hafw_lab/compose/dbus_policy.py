# SPDX-License-Identifier: GPL-2.0-or-later
"""The configuration of a D-Bus of our own. Pure."""

from collections.abc import Sequence

# Debian's system bus without its user, which a node made by an ordinary user does not have, and without
# activation.
_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <deny own="*"/>
    <deny send_type="method_call"/>
    <allow send_type="signal"/>
    <allow send_requested_reply="true" send_type="method_return"/>
    <allow send_requested_reply="true" send_type="error"/>
    <allow receive_type="method_call"/>
    <allow receive_type="method_return"/>
    <allow receive_type="error"/>
    <allow receive_type="signal"/>
{allowed}
  </policy>
{included}
</busconfig>
"""


def compose_bus_config(socket: str, allowed: Sequence[str], included: Sequence[str] = ()) -> str:
    """All users may receive, signal and reply. Who may own a name or call a method is in `allowed`, each the
    attributes of one <allow>, and in the files `included`, which need not be there."""
    return _CONFIG.format(
        socket=socket,
        allowed="\n".join(f"    <allow {attributes}/>" for attributes in allowed),
        included="\n".join(f'  <include ignore_missing="yes">{path}</include>' for path in included),
    )
