import type { Tx } from '../store/store.ts'
import type { IntegrationRecord } from './model.ts'

/** Reads each integration once: its record is as long as its list of servers, and it is asked for server by server. */
export const integrationsOf = (tx: Tx): ((id: string) => Promise<IntegrationRecord | null>) => {
  const known = new Map<string, Promise<IntegrationRecord | null>>()
  return (id) => {
    const read = known.get(id) ?? tx.integrations.get(id)
    known.set(id, read)
    return read
  }
}
