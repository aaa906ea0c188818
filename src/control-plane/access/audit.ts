import type { Tx } from '../store/store.ts'
import type { Deps } from './deps.ts'

/** Who decides when nobody does: the passing of time, and what servers and connectors report. */
export const SYSTEM = 'system'

export const audit = (
  tx: Tx,
  deps: Deps,
  actor: string,
  action: string,
  subject: string,
  detail: Readonly<Record<string, unknown>> = {},
): Promise<void> => tx.audit.add({ at: deps.clock.now(), actor, action, subject, detail })
