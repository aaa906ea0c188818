// A run of its own for the clean-up tests: starts one host, says its name, and stays until it is killed.
import { startHost } from './hosts.ts'

const host = await startHost()
process.stdout.write(`${host.name}\n`)
setInterval(() => undefined, 60_000)
