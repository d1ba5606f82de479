"""The options, in nova.conf's section [xenvol], and the log-in that they describe."""

from __future__ import annotations

from pathlib import Path

import nova.conf
from nova import exception
from oslo_config import cfg

import xenvol
from xenvol.secret import Secret
from xenvol.session import Session

CONF = nova.conf.CONF

CONF.register_opts(
    [
        cfg.ListOpt("url", help="The pool: https://host of any of its hosts. Several are tried in turn."),
        cfg.StrOpt("user", default="root", help="The user that logs in to the pool."),
        cfg.StrOpt("password_file", help="The file whose first line is the user's password."),
        cfg.StrOpt("ca_file", help="Certificates that sign those of the hosts. Default: the system's."),
        cfg.ListOpt("fingerprint", help="Instead of ca_file: the SHA-256 of each host's certificate."),
        cfg.BoolOpt("insecure", default=False, help="Instead of ca_file: trust any server. For tests."),
        cfg.StrOpt(
            "host", help="The hostname of the XenAPI host on which servers run. Default: [DEFAULT] host."
        ),
        cfg.DictOpt(
            "platform",
            default={"acpi": "true", "apic": "true", "nx": "true", "pae": "true", "viridian": "true"},
            help="The virtual hardware of new VMs, as the `platform` of XenAPI's class VM.",
        ),
    ],
    group="xenvol",
)


def host_name() -> str:
    return str(CONF.xenvol.host or CONF.host)


def log_in() -> Session:
    options = CONF.xenvol
    if not options.url or not options.password_file:
        raise exception.InvalidConfiguration("[xenvol] url and password_file must be set")
    password = Secret(Path(options.password_file).read_text(encoding="utf-8").partition("\n")[0])
    return xenvol.connect(
        options.url,
        options.user,
        password,
        ca_file=options.ca_file,
        fingerprint=options.fingerprint,
        insecure=options.insecure,
    )
