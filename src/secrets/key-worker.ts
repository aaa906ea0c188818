import { parentPort, workerData } from 'node:worker_threads'
import { JobError } from '../host/errors.ts'
import type { FoundKey } from './key-armour.ts'
import { openKey } from './open-key.ts'

/**
 * The inside of a worker thread that opens one encrypted key and ends. Deriving a key from a passphrase takes from 0.3 s
 * to as long as the file wants; here it is in nobody's way and can be ended from outside.
 */

export interface WorkerRequest {
  readonly key: Omit<FoundKey, 'bytes'> & { readonly bytes: Uint8Array }
  readonly passphrase: Uint8Array
}

export type WorkerReply =
  /** `openKey`'s result. */
  { readonly opened: Uint8Array } | { readonly message: string; readonly detail: string }

const answer = ({ key, passphrase }: WorkerRequest): WorkerReply => {
  try {
    const opened = openKey({ ...key, bytes: Buffer.from(key.bytes.buffer) }, Buffer.from(passphrase.buffer))
    // A copy with memory of its own can be handed over; the original may lie in a pool.
    const copy = new Uint8Array(opened)
    opened.fill(0)
    return { opened: copy }
  } catch (error) {
    if (error instanceof JobError) return { message: error.message, detail: error.hint }
    throw error
  } finally {
    key.bytes.fill(0)
    passphrase.fill(0)
  }
}

const reply = answer(workerData as WorkerRequest)
parentPort?.postMessage(reply, 'opened' in reply ? [reply.opened.buffer as ArrayBuffer] : [])
