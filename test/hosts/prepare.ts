// Before the tests, so that none of them waits for it: finds or makes the base images and builds the hosts' own, and
// finds or makes those of secret stores. Says on stderr what it does; its output is what the run's environment must have
// in APONO_TEST_BASES.
import { findStoreImages } from '../secrets/stores/images.ts'
import { BASES_VARIABLE, findBases, missingBase } from './bases.ts'
import { hostImage } from './image.ts'
import { hostKinds } from './kinds.ts'

const bases = await findBases()
process.env[BASES_VARIABLE] = bases
for (const kind of hostKinds.filter((each) => missingBase(each) === undefined)) {
  try {
    await hostImage(kind)
  } catch (error) {
    // The tests of that kind will fail, and say so again; the others need not.
    process.stderr.write(`test hosts: no host of the kind ${kind}: ${error instanceof Error ? error.message : error}\n`)
  }
}
process.stdout.write(`${bases} ${await findStoreImages()}\n`)
