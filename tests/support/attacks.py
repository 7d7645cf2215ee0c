"""What somebody writes who wants a script to run in the reader's browser."""

ATTACK = "\"'></title><script>window.pwned = 1</script><img src=x onerror='window.pwned = 2'>"


def hostile(value):
    """Every string becomes an attack; numbers stay."""
    if isinstance(value, dict):
        return {key: hostile(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [hostile(inner) for inner in value]
    return value + ATTACK if isinstance(value, str) else value
