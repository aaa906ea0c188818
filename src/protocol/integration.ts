import { z } from 'zod'
import { AccountName, Counter, Id, PublicKey } from './primitives.ts'

const Text = z.string().min(1).max(1024)

/** Where the connector's private key is kept: a JSON object with `base64_private_key`, optionally `passphrase`. */
export const SecretReference = z
  .discriminatedUnion('type', [
    z.object({ type: z.literal('aws'), region: Text, secretId: Text }),
    z.object({ type: z.literal('gcp'), project: Text, secretId: Text }),
    z.object({ type: z.literal('azure'), vaultUrl: Text, name: Text }),
    z.object({ type: z.literal('kubernetes'), namespace: Text, name: Text }),
    z.object({ type: z.literal('hashicorp_vault'), secretEngine: Text, path: Text }),
    z.object({ type: z.literal('file'), path: Text }),
  ])
  .meta({ id: 'SecretReference' })
export type SecretReference = z.infer<typeof SecretReference>

const MIN_UID = 1000
/** 2^31−1: above it some tools read a uid as negative. */
const MAX_UID = 2147483647

const UidRange = z
  .tuple([z.int().min(MIN_UID).max(MAX_UID), z.int().min(MIN_UID).max(MAX_UID)])
  .refine(([low, high]) => low <= high, 'the first uid must not be above the second')

/** What the customer's admin decided for all servers of an integration. Defaults are the safer value. */
export const Policy = z
  .object({
    /** A login of that name that we did not make: fail, or use it. */
    existingUser: z.enum(['refuse', 'adopt']).default('refuse'),
    /** What happens to an account of ours when its last grant ends. */
    onRevoke: z.enum(['lock', 'keep']).default('lock'),
    /** The home of an account of ours that is deleted: kept where only root gets to it, or deleted with it. */
    homes: z.enum(['archive', 'delete']).default('archive'),
    /** With no known key: record the one seen and report it, or refuse. */
    hostKeys: z.enum(['trust_on_first_use', 'pinned']).default('trust_on_first_use'),
    /** A root-owned file outside the home, or `~/.ssh/authorized_keys` written as the user. */
    trust: z.enum(['root_file', 'home']).default('root_file'),
    /** Which processes of other uids, started by the person, end with the grant. */
    rootProcesses: z.enum(['session', 'all']).default('session'),
    /** Of accounts that we make; it must be in the server's /etc/shells. */
    shell: z
      .string()
      .regex(/^\/[A-Za-z0-9._/-]{1,127}$/, 'must be an absolute path')
      .default('/bin/bash'),
    /** For accounts that we make; a uid is never used twice. */
    uidRange: UidRange.default([20000, 59999]),
  })
  .meta({ id: 'Policy' })
export type Policy = z.infer<typeof Policy>

export const Integration = z
  .object({
    id: Id,
    name: z.string().min(1).max(256),
    version: Counter,
    secretStore: SecretReference,
    /** Groups that may be granted at all. */
    userGroups: z.array(AccountName).max(1000).default([]),
    policy: Policy.prefault({}),
  })
  .meta({ id: 'Integration' })
export type Integration = z.infer<typeof Integration>

/** A DNS name, an IPv4 or an IPv6 address. It is only ever handed to a socket, never to a shell. */
export const Host = z.string().regex(/^[A-Za-z0-9:][A-Za-z0-9.:_-]{0,252}$/, 'must be a host name or an IP address')
export const Port = z.int().min(1).max(65535)

export const Hop = z
  .object({
    host: Host,
    port: Port.default(22),
    user: AccountName,
    hostKeys: z.array(PublicKey).max(64).default([]),
    /** Where this jump host's own key is kept; without, the integration's key opens it too. */
    secretStore: SecretReference.optional(),
  })
  .meta({ id: 'JumpHost' })
export type Hop = z.infer<typeof Hop>

export const Server = z
  .object({
    id: Id,
    name: z.string().min(1).max(256),
    host: Host,
    port: Port.default(22),
    user: AccountName.default('apono'),
    tags: z.record(z.string(), z.string()).default({}),
    hostKeys: z.array(PublicKey).max(64).default([]),
    /** First hop first; empty for a direct connection. */
    jumps: z.array(Hop).max(8).default([]),
  })
  .meta({ id: 'Server' })
export type Server = z.infer<typeof Server>
