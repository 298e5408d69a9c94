"""Messages for whoever is to upload, in the languages of the upload page: the link, and apart from it the code."""

from typing import Any, NamedTuple

from dropoff_tus.shown import show
from server.cli.output import say
from server.settings.page import PageSection

NO_CODE = "#no-code"
"""Behind the address of the page: it is to ask for no code."""


class _Words(NamedTuple):
    """Sentences of one language; `{name}` is the drop-off's, `{institute}` the institute's."""

    asks: str
    asks_nobody: str
    how: str
    code_apart: str
    code: str


_WORDS = {
    "en": _Words(
        "{institute} asks you for files: {name}. Send them on this page, with any web browser and without an account:",
        "You are asked for files: {name}. Send them on this page, with any web browser and without an account:",
        "If the connection breaks off, open the page again and choose the same files: it goes on where it stopped.",
        "The page asks for a code. It comes in another message.",
        "This is the code for {page}. Type it there, and do not pass it on:",
    ),
    "nl": _Words(
        "{institute} vraagt u om bestanden: {name}. Verstuur ze op deze pagina, met elke webbrowser en zonder account:",
        "U wordt om bestanden gevraagd: {name}. Verstuur ze op deze pagina, met elke webbrowser en zonder account:",
        "Valt de verbinding weg, open de pagina dan opnieuw en kies dezelfde bestanden: het gaat verder waar het "
        "ophield.",
        "De pagina vraagt om een code. Die komt in een ander bericht.",
        "Dit is de code voor {page}. Typ hem daar in en geef hem niet door:",
    ),
    "de": _Words(
        "{institute} bittet Sie um Dateien: {name}. Senden Sie sie auf dieser Seite, mit jedem Browser und ohne Konto:",
        "Sie werden um Dateien gebeten: {name}. Senden Sie sie auf dieser Seite, mit jedem Browser und ohne Konto:",
        "Bricht die Verbindung ab, öffnen Sie die Seite wieder und wählen dieselben Dateien: es geht dort weiter, wo "
        "es aufgehört hat.",
        "Die Seite fragt nach einem Code. Er kommt in einer anderen Nachricht.",
        "Das ist der Code für {page}. Geben Sie ihn dort ein, und geben Sie ihn nicht weiter:",
    ),
    "fr": _Words(
        "{institute} vous demande des fichiers : {name}. Envoyez-les sur cette page, avec n'importe quel navigateur et "
        "sans compte :",
        "On vous demande des fichiers : {name}. Envoyez-les sur cette page, avec n'importe quel navigateur et sans "
        "compte :",
        "Si la connexion est coupée, rouvrez la page et choisissez les mêmes fichiers : l'envoi reprend où "
        "il s'est arrêté.",
        "La page demande un code. Il arrive dans un autre message.",
        "Voici le code pour {page}. Saisissez-le sur cette page et ne le transmettez à personne :",
    ),
    "es": _Words(
        "{institute} le pide archivos: {name}. Envíelos en esta página, con cualquier navegador y sin cuenta:",
        "Se le piden archivos: {name}. Envíelos en esta página, con cualquier navegador y sin cuenta:",
        "Si se corta la conexión, vuelva a abrir la página y elija los mismos archivos: sigue donde se detuvo.",
        "La página pide un código. Llega en otro mensaje.",
        "Este es el código para {page}. Escríbalo allí y no se lo dé a nadie:",
    ),
}


def say_invitation(made: dict[str, Any], page: PageSection, language: str | None) -> None:
    """Print the messages, for an operator who copies them."""
    words = _WORDS[language or page.languages[0]]
    asks = words.asks if page.institute else words.asks_nobody
    link, code = made["page_url"], made["code"]
    say("\nTo whoever uploads:\n")
    say(f"  {asks.format(institute=show(page.institute), name=show(made['name']))}")
    say(f"  {link if code else link + NO_CODE}")
    say(f"  {words.how}")
    if code:
        say(f"  {words.code_apart}")
        say("\nBy another way, such as the telephone or a text message, since nobody may read both in one place:\n")
        say(f"  {words.code.format(page=link)}")
        say(f"  {code}")
