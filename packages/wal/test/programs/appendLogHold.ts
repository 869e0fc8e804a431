/** Opens a log, says `open`, or what the error says, and waits to be killed. */
import * as NodeVfs from "@tidemark/platform/NodeVfs"
import * as Effect from "effect/Effect"
import { writeSync } from "node:fs"
import { AppendLog } from "../../src/AppendLog.ts"

const [directory = ""] = process.argv.slice(2)

const program = AppendLog.open({ directory }).pipe(
  Effect.match({
    onFailure: (error) => error._tag === "LogLocked" ? `${error._tag} ${error.holderPid}` : error._tag,
    onSuccess: () => "open"
  }),
  Effect.map((line) => writeSync(1, `${line}\n`)),
  Effect.andThen(Effect.never)
)

setInterval(() => {}, 1000)
await Effect.runPromise(Effect.provide(Effect.scoped(program), NodeVfs.layer))
