import { z } from 'zod'
import { AccountName, Counter, IdOnServer, Instant, PublicKey } from './primitives.ts'

/** Strings that a server chose: cut to 256 printable bytes by the connector before they get here. */
export const ServerText = z.string().max(300)

const Trust = z.enum(['root_file', 'home'])
/** Whether the server itself can end sessions and groups with nobody alive, or only refuses new logins. */
const OnHostExpiry = z.enum(['full', 'logins'])
const Assurance = z.enum(['observed', 'root_was_possible'])

/** The keys that jump hosts on the way showed, so that they can be pinned. */
const JumpHostKeys = z
  .array(z.object({ host: z.string().max(253), port: z.int(), hostKeys: z.array(PublicKey) }))
  .max(8)
  .optional()

export const PresentResult = z
  .object({
    hostId: IdOnServer,
    login: AccountName,
    uid: z.int().min(0),
    createdLogin: z.boolean(),
    groupsAdded: z.array(AccountName),
    /** Null where `issue` was false. */
    certificate: z.string().max(20_000).nullable(),
    validAfter: Instant.nullable(),
    validBefore: Instant,
    hostKeys: z.array(PublicKey),
    trust: Trust,
    onHostExpiry: OnHostExpiry,
    /** `root_was_possible`: a group of the login is as good as root, so its end will be observed, not proven. */
    assurance: Assurance.optional(),
    jumps: JumpHostKeys,
    changed: z.boolean(),
  })
  .meta({ id: 'PresentResult' })
export type PresentResult = z.infer<typeof PresentResult>

export const ResidueKind = z.enum([
  'authorized_key',
  'crontab',
  'at_job',
  'linger',
  'user_unit',
  'setuid_file',
  'process',
])

export const Residue = z.object({ kind: ResidueKind, detail: ServerText, removed: z.boolean() }).meta({ id: 'Residue' })
export type Residue = z.infer<typeof Residue>

export const AbsentResult = z
  .object({
    hostId: IdOnServer,
    login: AccountName,
    groupsRemoved: z.array(AccountName),
    /** Null for an adopted login: none of its processes is ended. */
    sessionsEnded: z.int().min(0).nullable(),
    processesLeft: z.int().min(0),
    /** `deleted` also where the account never was. */
    account: z.enum(['locked', 'deleted', 'kept']),
    changed: z.boolean(),
    assurance: Assurance,
    residue: z.array(Residue).max(1000),
  })
  .meta({ id: 'AbsentResult' })
export type AbsentResult = z.infer<typeof AbsentResult>

export const CleanupResult = z
  .object({
    /** Null on a server that has no ledger of ours. */
    hostId: IdOnServer.nullable(),
    login: AccountName,
    /** `deleted` also where it was gone already; `kept` where the account is not ours. */
    account: z.enum(['deleted', 'kept']),
    /** Where the login's home lies now, for root only; null where there is none. */
    homeArchive: ServerText.nullable(),
    changed: z.boolean(),
  })
  .meta({ id: 'CleanupResult' })
export type CleanupResult = z.infer<typeof CleanupResult>

export const Problem = z
  .object({
    code: z.string().max(64),
    message: z.string().max(1024),
    hint: z.string().max(2048),
    severity: z.enum(['error', 'warning']),
  })
  .meta({ id: 'Problem' })
export type Problem = z.infer<typeof Problem>

export const InspectResult = z
  .object({
    /** Null on a server that has no ledger of ours yet. */
    hostId: IdOnServer.nullable(),
    os: z.object({ id: ServerText, versionId: ServerText, prettyName: ServerText, kernel: ServerText }),
    ssh: z.object({ version: ServerText, usePam: z.boolean(), authorizedKeysFile: z.array(ServerText) }),
    sudo: z.object({ ok: z.boolean(), flavour: z.enum(['sudo', 'sudo-rs', 'doas', 'root']) }),
    tools: z.array(ServerText),
    trust: z.array(Trust),
    onHostExpiry: OnHostExpiry,
    groups: z.array(AccountName).max(1000),
    hostKeys: z.array(PublicKey),
    jumps: JumpHostKeys,
    clockSkewMs: z.int(),
    ledger: z
      .array(
        z.object({
          grantId: IdOnServer,
          generation: Counter,
          epoch: Counter,
          state: z.enum(['applying', 'present', 'ending', 'absent']),
          intact: z.boolean(),
        }),
      )
      .max(1000),
    /**
     * Which key of the secret the server took: its only one, or of two (`base64_private_key_next`) the current one, because
     * it did not take the next, or the next. Older connectors leave it out.
     */
    loginKey: z.enum(['only', 'current', 'next']).optional(),
    problems: z.array(Problem).max(1000),
  })
  .meta({ id: 'InspectResult' })
export type InspectResult = z.infer<typeof InspectResult>

export const JobResult = z.union([PresentResult, AbsentResult, InspectResult, CleanupResult]).meta({ id: 'JobResult' })
export type JobResult = z.infer<typeof JobResult>

export const JobFailure = z
  .object({
    /** snake_case, stable; see the error table. */
    code: z.string().regex(/^[a-z][a-z0-9_]{0,63}$/),
    message: z.string().max(2048),
    hint: z.string().max(4096),
    retryable: z.boolean(),
    /** What a `superseded` job found in the ledger, so that a restored control plane can go past it. */
    recorded: z.object({ generation: Counter, epoch: Counter }).optional(),
    hostKeys: z.array(PublicKey).optional(),
  })
  .meta({ id: 'JobFailure' })
export type JobFailure = z.infer<typeof JobFailure>
