-- What the writer inserts into: a whole transaction of new messages and settlements is one statement, and one
-- statement is one transaction. (Temporary: these belong to the writer's connection, not to the database.)

CREATE TEMP VIEW batch AS SELECT
    NULL AS kind,  -- 'new', 'settled'; NULL fills a statement up
    NULL AS id,
    NULL AS state,
    NULL AS worker,
    NULL AS due,
    NULL AS attempts,
    NULL AS delay_reported,
    NULL AS story,
    NULL AS arrived,
    NULL AS size,
    NULL AS envelope,
    NULL AS origin,
    NULL AS message_id,
    NULL AS subject,
    NULL AS prefix,
    NULL AS file,
    NULL AS octets;

CREATE TEMP TRIGGER batch_new INSTEAD OF INSERT ON batch WHEN NEW.kind = 'new' BEGIN
    INSERT INTO message (
        id, state, worker, due, attempts, arrived, size, envelope, origin, message_id, subject, prefix
    ) VALUES (
        NEW.id, NEW.state, NEW.worker, NEW.due, NEW.attempts, NEW.arrived, NEW.size, NEW.envelope, NEW.origin,
        NEW.message_id, NEW.subject, NEW.prefix
    );
    INSERT INTO body (id, file, octets) VALUES (NEW.id, NEW.file, NEW.octets);
END;

-- Only who still has the lease may settle: worker and number of the attempt are both as they were at the claim.
CREATE TEMP TRIGGER batch_settled INSTEAD OF INSERT ON batch WHEN NEW.kind = 'settled' BEGIN
    SELECT RAISE(ABORT, 'lease lost') WHERE NOT EXISTS (
        SELECT 1 FROM message
        WHERE id = NEW.id AND worker = NEW.worker AND attempts = NEW.attempts AND state = 0
    );
    UPDATE message SET
        state = NEW.state,
        worker = 0,
        due = NEW.due,
        delay_reported = max(delay_reported, NEW.delay_reported),
        story = story || NEW.story,
        prefix = CASE NEW.state WHEN 2 THEN x'' ELSE prefix END
    WHERE id = NEW.id;
    DELETE FROM body WHERE NEW.state = 2 AND id = NEW.id;
END;
