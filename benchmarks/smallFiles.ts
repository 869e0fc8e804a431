/**
 * What a small file costs that is made, synced with its directory in a batch, and not needed any more soon after: made
 * anew and kept, made anew and removed, or written over one that is there under a new name.
 *
 *     node benchmarks/smallFiles.ts [--directory D] [--rounds N] [--batch N] [--files N]
 *
 * Plain `node:fs`; files of a capsule of one page. `make` is what happens before the sync, per file: wall time, and
 * processor time of the thread for the calls that are made on it. Removals are not in it. The ways alternate from round
 * to round, each in a directory of its own, which is removed after it: so inodes that were removed a moment ago are about,
 * as they are beside a database in native mode.
 */
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"
import { parseArguments, temporaryDirectory, wholeNumber } from "./support/options.ts"
import { spreadOf } from "./support/statistics.ts"
import { figure, spreadCell, table } from "./support/table.ts"

const usage = `options:
  --directory DIR  where the files go; default: tmp of the repository
  --rounds 5       alternating rounds
  --batch 64       files that are synced together
  --files 2048     files of each way in a round`

const { values } = parseArguments(usage, {
  options: {
    directory: { type: "string" },
    rounds: { type: "string", default: "5" },
    batch: { type: "string", default: "64" },
    files: { type: "string", default: "2048" }
  }
})
const rounds = wholeNumber("rounds", values.rounds, 1)
const batch = wholeNumber("batch", values.batch, 1)
const batches = Math.ceil(wholeNumber("files", values.files, 1) / batch)
const root = temporaryDirectory(values.directory)
const image = new Uint8Array(4282).fill(7)

/** How a file gets its name, and is open to be written. */
interface Way {
  readonly name: string
  readonly spares: boolean
  readonly removes: boolean
  readonly inPool: boolean
}

const ways: ReadonlyArray<Way> = [
  { name: "made anew, kept", spares: false, removes: false, inPool: false },
  { name: "made anew, removed after its batch", spares: false, removes: true, inPool: false },
  { name: "renamed and written over", spares: true, removes: false, inPool: false },
  { name: "renamed and written over, in the pool", spares: true, removes: false, inPool: true }
]

const makeNow = (path: string, spare: string | undefined): number => {
  if (spare !== undefined) NodeFs.renameSync(spare, path)
  const descriptor = NodeFs.openSync(path, spare === undefined ? "wx" : "r+")
  NodeFs.writeSync(descriptor, image, 0, image.length, 0)
  return descriptor
}

const makeInPool = async (path: string, spare: string): Promise<number> => {
  await NodeFs.promises.rename(spare, path)
  return new Promise((resolve, reject) => {
    NodeFs.open(path, "r+", (failure, descriptor) => {
      if (failure !== null) return reject(failure)
      NodeFs.write(
        descriptor,
        image,
        0,
        image.length,
        0,
        (cause) => cause === null ? resolve(descriptor) : reject(cause)
      )
    })
  })
}

const sync = (descriptor: number) =>
  new Promise<void>((resolve, reject) => {
    NodeFs.fdatasync(descriptor, (cause) => cause === null ? resolve() : reject(cause))
  })

const run = async ({ inPool, removes, spares }: Way) => {
  const directory = NodeFs.mkdtempSync(NodePath.join(root, "way-"))
  const names = NodeFs.openSync(directory, "r")
  const spare: Array<string> = []
  if (spares) {
    for (let file = 0; file < 2 * batch; file++) spare.push(NodePath.join(directory, `spare${file}`))
    for (const path of spare) NodeFs.writeFileSync(path, image, { flush: true })
  }
  let makeMillis = 0
  let makeCpuMicros = 0
  const started = performance.now()
  for (let number = 0; number < batches; number++) {
    const paths = Array.from({ length: batch }, (_, file) => NodePath.join(directory, `${number}-${file}`))
    const cpu = process.threadCpuUsage()
    const from = performance.now()
    const descriptors = inPool
      ? await Promise.all(paths.map((path) => makeInPool(path, spare.shift() ?? "")))
      : paths.map((path) => makeNow(path, spare.shift()))
    makeMillis += performance.now() - from
    const { system, user } = process.threadCpuUsage(cpu)
    makeCpuMicros += system + user
    await Promise.all(descriptors.map(sync))
    NodeFs.fsyncSync(names)
    for (const descriptor of descriptors) NodeFs.closeSync(descriptor)
    if (removes) { for (const path of paths) NodeFs.unlinkSync(path) }
    if (spares) spare.push(...paths)
  }
  const seconds = (performance.now() - started) / 1000
  NodeFs.closeSync(names)
  NodeFs.rmSync(directory, { recursive: true })
  const files = batches * batch
  return {
    filesPerSecond: files / seconds,
    makeMicros: makeMillis * 1000 / files,
    makeCpuMicros: inPool ? Number.NaN : makeCpuMicros / files
  }
}

const results = new Map(ways.map((way) => [way, Array<Awaited<ReturnType<typeof run>>>()]))
for (let round = 0; round < rounds; round++) {
  for (const way of round % 2 === 0 ? ways : ways.toReversed()) results.get(way)?.push(await run(way))
}
const rows = Array.from(results, ([{ name }, measured]) => [
  name,
  spreadCell(spreadOf(measured.map(({ filesPerSecond }) => filesPerSecond))),
  spreadCell(spreadOf(measured.map(({ makeMicros }) => makeMicros))),
  figure(spreadOf(measured.map(({ makeCpuMicros }) => makeCpuMicros)).median)
])
console.log(
  `batches of ${batch} files of ${image.length} bytes, ${batches * batch} of each way in a round, ${rounds} rounds\n`
)
console.log(table(["way", "files/s", "make, us", "of it CPU, us"], rows))
