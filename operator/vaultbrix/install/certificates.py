"""A small certificate authority for the chart's own PostgreSQL (X.509, RFC 5280). No I/O; keys are random."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_LIFE = timedelta(days=3650)
SERVER_LIFE = timedelta(days=730)
RENEW_BEFORE = timedelta(days=90)
_SKEW = timedelta(minutes=5)


@dataclass(frozen=True)
class Issued:
    """Certificate and key in PEM."""

    certificate: str
    key: str


def authority(common_name: str, now: datetime) -> Issued:
    """A new certificate authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    certificate = (
        _builder(name, name, key, now, AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Issued(_pem(certificate), _key(key))


def server(signer: Issued, names: Sequence[str], now: datetime) -> Issued:
    """A certificate for a server of these DNS names and IP addresses."""
    alternative_names = x509.SubjectAlternativeName([_general_name(name) for name in names])
    return _issue(signer, names[0], ExtendedKeyUsageOID.SERVER_AUTH, now, SERVER_LIFE, alternative_names)


def client(signer: Issued, login: str, now: datetime) -> Issued:
    """A certificate for who logs in under that name; it lasts as long as an authority, or nobody could renew it."""
    return _issue(signer, login, ExtendedKeyUsageOID.CLIENT_AUTH, now, AUTHORITY_LIFE)


def _issue(
    signer: Issued,
    common_name: str,
    purpose: x509.ObjectIdentifier,
    now: datetime,
    life: timedelta,
    *extensions: x509.ExtensionType,
) -> Issued:
    issuer = x509.load_pem_x509_certificate(signer.certificate.encode())
    issuer_key = serialization.load_pem_private_key(signer.key.encode(), None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])
    builder = (
        _builder(subject, issuer.subject, key, now, life)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return Issued(_pem(certificate), _key(key))


def usable(certificate: str, signer: Issued, names: Sequence[str], now: datetime) -> bool:
    """Whether the signer issued a certificate for all these names, and it lasts beyond ``RENEW_BEFORE``.

    One for a client has no names.
    """
    try:
        parsed = x509.load_pem_x509_certificate(certificate.encode())
        alternative_names = (
            parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value if names else ()
        )
        parsed.verify_directly_issued_by(x509.load_pem_x509_certificate(signer.certificate.encode()))
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    covered = {_general_name(name) for name in names} <= set(alternative_names)
    return covered and parsed.not_valid_after_utc - now > RENEW_BEFORE


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + life)
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def _key(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
