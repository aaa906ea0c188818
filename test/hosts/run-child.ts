// A run of its own for the clean-up tests: starts one host, says its name, and stays until it is killed, or
// until the test that started it is gone (its end of our standard input closes).
import { startHost } from './hosts.ts'

process.stdin.on('close', () => process.exit(1)).resume()

const host = await startHost()
process.stdout.write(`${host.name}\n`)
