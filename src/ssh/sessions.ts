import type { LoginKey } from '../secrets/private-key.ts'
import type { HostKeyRules } from './host-keys.ts'
import { connectSsh, type SshOptions, type SshServer, type SshSession } from './session.ts'

/** Where a job gets its connection from. A pool can take the place of {@link oneSessionPerJob} without a job noticing. */
export interface Sessions {
  /** Runs `work` on a connection. Fails as {@link connectSsh} does, or as `work` does. */
  use<T>(
    server: SshServer,
    key: LoginKey,
    rules: HostKeyRules,
    options: SshOptions,
    work: (session: SshSession) => Promise<T>,
  ): Promise<T>
}

/** A connection for each job, closed behind it: the result does not wait for the goodbye. */
export const oneSessionPerJob: Sessions = {
  use: async (server, key, rules, options, work) => {
    const session = await connectSsh(server, key, rules, options)
    try {
      return await work(session)
    } finally {
      session.close().catch(() => undefined)
    }
  },
}
