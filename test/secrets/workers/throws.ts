import { workerData } from 'node:worker_threads'

/** An error that quotes a secret, which must not come out. */
throw new Error(Buffer.from((workerData as { passphrase: Uint8Array }).passphrase).toString('utf8'))
