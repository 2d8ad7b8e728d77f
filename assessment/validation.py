"""The verdict of compliance-trestle on an OSCAL component definition: its models and all of its validators."""

from pathlib import Path


def problem(file: Path) -> str | None:
    """Why compliance-trestle refuses the document in a file; None when it is valid."""
    # Imported here: the models cost a third of a second, and only whoever validates needs them
    from trestle.core.validator_factory import validator_factory
    from trestle.oscal.component import ComponentDefinition

    try:
        document = ComponentDefinition.oscal_read(file)
    except Exception as refused:  # trestle wraps every fault of its models in an error of its own
        return f"{refused}"
    if document is None:
        return f"There is no document {file}."
    for validator in validator_factory.get_all():
        if not validator.model_is_valid(document, True, None):
            return str(validator.error_msg())
    return None
