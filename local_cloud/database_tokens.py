"""IAM database authentication: whether a token signs a user in to an instance, decided as RDS does.

The token is a presigned request; the emulator has its verifier (signature, host, port, user, 15 minutes, a session that
has not expired). What it does for MySQL only is done here: the instance must have IAM authentication enabled, and the
role that signed must be allowed `rds-db:connect` on `dbuser:<DbiResourceId>/<user>`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ministack.core import iam_evaluator, rds_iam
from ministack.core.responses import request_scope
from ministack.services import rds

if TYPE_CHECKING:
    from local_cloud.server import LocalCloudOptions

_logger = logging.getLogger(__name__)


class DatabaseTokens:
    """Checks tokens for the instances of the account."""

    def __init__(self, options: LocalCloudOptions) -> None:
        self._account = options.account
        self._region = options.region

    def __call__(self, identifier: str, address: tuple[str, int], user: str, token: str) -> bool:
        """Whether the token signs `user` in to the instance, whose endpoint is `address`; the log says why not."""
        with request_scope(self._account, self._region):
            reason = self._refusal(identifier, address, user, token)
        if reason:
            _logger.warning("%s does not let %s in by a token: %s", identifier, user, reason)
        return reason is None

    def _refusal(self, identifier: str, address: tuple[str, int], user: str, token: str) -> str | None:
        record = rds._instances.get(identifier)
        if record is None or not record.get("IAMDatabaseAuthenticationEnabled"):
            return "IAM database authentication is not enabled"
        verified = rds_iam.verify_rds_iam_token(
            token,
            hostname=address[0],
            port=address[1],
            db_user=user,
            region=self._region,
            account_id=self._account,
        )
        if isinstance(verified, rds_iam.RdsIamTokenError):
            return str(verified.code)
        principal = iam_evaluator.resolve_principal(verified.access_key_id, self._account)
        if isinstance(principal, iam_evaluator.AuthError) or principal.arn != verified.principal_arn:
            return "the signer is unknown"
        if principal.policies is None:
            return None  # the account's root
        resource = f"arn:aws:rds-db:{self._region}:{self._account}:dbuser:{record['DbiResourceId']}/{user}"
        context = iam_evaluator.EvalContext(
            principal_arn=principal.arn,
            principal_type=principal.type,
            principal_account=self._account,
            action="rds-db:connect",
            resource_arn=resource,
            region=self._region,
            secure_transport=True,
            principal_keys=principal.keys,
        )
        result = iam_evaluator.evaluate(context, principal.policies, *principal.limits)
        return None if result.decision == "Allow" else f"{principal.arn} may not rds-db:connect to {resource}"
