import { z } from 'zod'
import { AccountName, Counter, IdOnServer, Instant, PublicKey } from './primitives.ts'

/** One person's right to one server for one time. What a server should look like follows from the newest generation. */
export const Grant = z
  .object({
    /** Also the certificate's key id and its only principal. */
    id: IdOnServer,
    /** Rises whenever the desired state changes: extended, revoked, ended. */
    generation: Counter,
    state: z.enum(['present', 'absent']),
    login: AccountName,
    /** Who it is for. Never reaches a server in clear. */
    person: z.string().min(1).max(320),
    /** Empty: the login's own default group and nothing more (the permission "Default"). */
    groups: z.array(AccountName).max(100),
    notBefore: Instant,
    /** In `absent`: the latest of any generation. */
    notAfter: Instant,
    publicKey: PublicKey,
    /** True: the control plane holds no certificate for this generation, so mint one, once per (jobId, epoch). */
    issue: z.boolean(),
    /** What earlier results for this server reported; null before the first. */
    hostId: IdOnServer.nullable(),
  })
  .refine((grant) => Date.parse(grant.notBefore) < Date.parse(grant.notAfter), {
    path: ['notAfter'],
    message: 'must be after notBefore',
  })
  .meta({ id: 'Grant' })
export type Grant = z.infer<typeof Grant>
