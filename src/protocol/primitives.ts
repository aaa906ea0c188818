/**
 * The contract between a connector and a control plane, as zod schemas.
 *
 * What lives here: the shape of every call, job and result, the allow-lists that every name in them has to pass, and
 * the OpenAPI document that is generated from both. What may enter: only what travels between the two sides. What
 * never does: behaviour of either side. Connector and control plane share this folder and nothing else, so a change
 * here is a change of the protocol.
 *
 * Schemas read liberally (members that they do not know are dropped) but names and keys strictly: what does not match
 * is refused, never escaped and never normalised.
 */
import { z } from 'zod'

/** RFC 3339 in UTC with a `Z`, e.g. `2026-11-22T15:00:00.000Z`. */
export const Instant = z.iso.datetime().meta({ id: 'Instant' })

/** A duration in whole milliseconds. */
export const DurationMs = z.int().min(0)

const MAX_COUNTER = 2 ** 31 - 1

/** `epoch` and `generation`: 1 … 2^31−1, so that POSIX sh on a 32-bit server can compare them. */
export const Counter = z.int().min(1).max(MAX_COUNTER)

/** Ids that reach a server: they name ledger files and certificates there. */
const ID_ON_SERVER = /^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$/
export const IdOnServer = z.string().regex(ID_ON_SERVER, 'must match ^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$')

/** Ids that stay between connector and control plane. */
export const Id = z.string().min(1).max(128)

/**
 * Logins and groups. A login that we create obeys {@link CREATABLE_LOGIN} as well; directories and hand-made accounts
 * use the wider form. Neither allows a comma, which OpenSSH before 10.3 splits principals on (CVE-2026-35414).
 */
export const ACCOUNT_NAME = /^[A-Za-z_][A-Za-z0-9._-]{0,31}$/
export const CREATABLE_LOGIN = /^[a-z_][a-z0-9_-]{0,31}$/
export const AccountName = z.string().regex(ACCOUNT_NAME, 'must match ^[A-Za-z_][A-Za-z0-9._-]{0,31}$')

/**
 * An SSH public key as `type base64`: no options, no comment, no certificate. That the blob is a sound key of that
 * type (and RSA long enough) is checked by the code that re-serialises it, not by a pattern.
 */
const PUBLIC_KEY =
  /^(?:ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(?:256|384|521)|sk-ssh-ed25519@openssh\.com|sk-ecdsa-sha2-nistp256@openssh\.com) [A-Za-z0-9+/]{16,4096}={0,2}$/
export const PublicKey = z.string().regex(PUBLIC_KEY, 'must be an SSH public key: type and base64, nothing else')

export const CloudProvider = z.enum(['aws', 'azure', 'gcp', 'kubernetes', 'none'])
export type CloudProvider = z.infer<typeof CloudProvider>

/** Every store a secret can come from; a connector names those it can read when it registers. */
export const SecretStoreType = z.enum(['aws', 'azure', 'gcp', 'kubernetes', 'hashicorp_vault', 'file'])
export type SecretStoreType = z.infer<typeof SecretStoreType>
