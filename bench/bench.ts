/**
 * What we claim about speed, re-runnable: `npm run bench -- [--json FILE] [--only PREFIX]`.
 *
 * What lives here: one file per subject, each a list of pairs of ours and a peer, measured in turn within one run. What
 * may enter: the product's own modules and the test hosts. What never does: an assertion; numbers are judged by people,
 * as ratios, because machines differ.
 */
import { writeFileSync } from 'node:fs'
import { parseArgs } from 'node:util'
import { removeAtExit, sweepDeadRuns } from '../test/hosts/cleanup.ts'
import { sweepScratch } from '../test/hosts/scratch.ts'
import { hostEnsure } from './host-ensure.ts'
import { hostProgramBytes, hostRevoke } from './host-revoke.ts'
import type { Figure, Subject } from './measure.ts'
import { secrets } from './secrets.ts'
import { transport } from './transport.ts'
import { transportApproval } from './transport-approval.ts'
import { transportCost } from './transport-cost.ts'
import { transportFleet } from './transport-fleet.ts'

const subjects: readonly Subject[] = [
  hostEnsure,
  hostRevoke,
  hostProgramBytes,
  transport,
  transportFleet,
  transportApproval,
  transportCost,
  secrets,
]

const { values } = parseArgs({ options: { json: { type: 'string' }, only: { type: 'string', default: '' } } })

const show = ({ name, value, unit, peer, peerValue, ratio }: Figure): void => {
  const ours = `${value.toFixed(1)} ${unit}`.padStart(12)
  const theirs = `${peerValue.toFixed(1)} ${unit}`.padStart(12)
  process.stdout.write(`${name.padEnd(40)} ${ours}   ${peer.padEnd(36)} ${theirs}   ratio ${ratio.toFixed(2)}\n`)
}

const main = async (): Promise<void> => {
  removeAtExit()
  sweepScratch()
  await sweepDeadRuns()
  const figures: Figure[] = []
  for (const subject of subjects) {
    for await (const figure of subject(values.only)) {
      show(figure)
      figures.push(figure)
    }
  }
  if (figures.length === 0) throw new Error(`nothing is called ${values.only}`)
  if (values.json !== undefined) writeFileSync(values.json, `${JSON.stringify(figures, null, 2)}\n`)
}

main().then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`bench failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`)
    process.exit(1)
  },
)
