"""Whether mail server and sites can be reached. Nothing is sent to them: no mail, no event."""

from server.cli.commands.doctor.result import Result
from server.deliveries import mail_settings, secrets_of
from server.outbox.loop import DeliveryError
from server.outbox.mail import greet
from server.outbox.outbound import OutboundClient, OutboundError
from server.services import StartError
from server.settings.config import Config


async def look_outside(config: Config) -> list[Result]:
    """Connect, greet and log in where that is configured, and say goodbye."""
    try:
        secrets = secrets_of(config)
    except StartError as error:
        advice = "write the secret there, mode 0600; `serve` does not start without it"
        return [Result("secrets", "problem", line, advice) for line in str(error).splitlines()]
    results = []
    if config.mail.server is not None:
        try:
            await greet(mail_settings(config, secrets.mail))
        except DeliveryError as error:
            detail = f"{config.mail.server}: {error}; operators do not hear of uploads"
            advice = "correct mail.server, mail.security, mail.username, mail.password or mail.ca_file"
            results.append(Result("mail", "problem", detail, advice))
        else:
            results.append(Result("mail", "ok", f"{config.mail.server} lets us in"))
    for key, section, url, effect in (
        ("webhook.url", config.webhook, config.webhook.url, "the site does not hear of uploads"),
        ("pre_create.webhook", config.pre_create, config.pre_create.webhook, "every creation is refused with 503"),
    ):
        if url is None:
            continue
        try:
            await OutboundClient(url, section.allow_private_addresses, section.timeout).reach()
        except OutboundError as error:
            detail = f"{key} cannot be reached: {error}; {effect}"
            advice = f"correct {key} or its site's certificate, open the firewall, or see allow_private_addresses"
            results.append(Result(key.partition(".")[0], "problem", detail, advice))
        else:
            results.append(Result(key.partition(".")[0], "ok", f"the site of {key} takes connections"))
    return results
